// SPDX-License-Identifier: Apache-2.0

package test

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf/asm"

	"github.com/stentor-net/stentor/internal/abi"
)

// settings are the combinations of .rodata that lead to different programs.
func settings() map[string]config {
	out := map[string]config{}
	for _, tunnel := range []uint8{0, 1} {
		for name, c := range map[string]config{
			"dual":         {},
			"ipv4":         {abi.ConfigIPv6: uint8(0)},
			"ipv6":         {abi.ConfigIPv4: uint8(0)},
			"routed":       {abi.ConfigMasquerade4: uint8(0), abi.ConfigMasquerade6: uint8(0)},
			"no events":    {abi.ConfigEventLevel: uint8(0)},
			"every packet": {abi.ConfigEventLevel: uint8(2)},
			"all services": {abi.ConfigServices: uint8(1)},
		} {
			cfg := masquerading()
			for k, v := range c {
				cfg[k] = v
			}
			cfg[abi.ConfigTunnel] = tunnel
			out[fmt.Sprintf("%s, %s", map[uint8]string{0: "native", 1: "tunnel"}[tunnel], name)] = cfg
		}
	}
	return out
}

// TestEveryObjectLoadsWithEverySetting is the gate: the verifier accepts all, and
// its work does not grow unseen.
func TestEveryObjectLoadsWithEverySetting(t *testing.T) {
	requireRoot(t)
	most := map[string]int{}
	for name, cfg := range settings() {
		t.Run(name, func(t *testing.T) {
			n := makeNode(t, cfg, false)
			for object := range loaders {
				for program := range n.spec(object).Programs {
					info, err := n.prog(program).Info()
					if err != nil {
						t.Fatal(err)
					}
					if verified, ok := info.VerifiedInstructions(); ok {
						most[program] = max(most[program], int(verified))
					}
				}
			}
		})
	}
	if t.Failed() {
		return
	}
	compareCounts(t, map[string]map[string]int{release(t): most}, "go test ./bpf/test -run EveryObject")
}

// TestTheProgramsDoNotGrowUnseen counts what the compiler made.
func TestTheProgramsDoNotGrowUnseen(t *testing.T) {
	insns := map[string]int{}
	for object, load := range loaders {
		spec, err := load()
		if err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		for name, p := range spec.Programs {
			insns[name] = int(p.Instructions.Size() / asm.InstructionSize)
		}
	}
	compareCounts(t, map[string]map[string]int{sizeColumn: insns}, "go test ./bpf/test -run ProgramsDoNotGrow")
}
