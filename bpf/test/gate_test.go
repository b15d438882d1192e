// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
)

const (
	instructionsFile = "testdata/instructions.txt"
	growthAllowed    = 5 // per cent
)

var update = flag.Bool("update", false, "write "+instructionsFile)

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
	most := map[string]uint32{}
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
						most[program] = max(most[program], verified)
					}
				}
			}
		})
	}
	if *update {
		writeInstructions(t, most)
	}
	kernel, known := readInstructions(t)
	if here := release(t); here != kernel {
		t.Logf("counts are of Linux %s, not compared on %s: every verifier counts in its own way", kernel, here)
		return
	}
	for program, got := range most {
		want, ok := known[program]
		if !ok {
			t.Errorf("%s is not in %s: repeat with -update", program, instructionsFile)
		}
		if got*100 > want*(100+growthAllowed) {
			t.Errorf("%s: the verifier walks %d instructions, %d are recorded: if it must be, repeat with -update", program, got, want)
		}
	}
}

// release is the kernel's version as far as it matters here, as "6.18".
func release(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	return strings.Join(parts[:2], ".")
}

// readInstructions returns the kernel that counted, and the counts by program.
func readInstructions(t *testing.T) (string, map[string]uint32) {
	t.Helper()
	f, err := os.Open(instructionsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	kernel, out := "", map[string]uint32{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		if rest, ok := strings.CutPrefix(s.Text(), "kernel "); ok {
			kernel = rest
			continue
		}
		var name string
		var count uint32
		if _, err := fmt.Sscan(s.Text(), &name, &count); err != nil {
			t.Fatalf("%s: line %q: %v", instructionsFile, s.Text(), err)
		}
		out[name] = count
	}
	return kernel, out
}

func writeInstructions(t *testing.T, most map[string]uint32) {
	t.Helper()
	var lines []string
	for name, count := range most {
		lines = append(lines, fmt.Sprintf("%s %d\n", name, count))
	}
	sort.Strings(lines)
	text := "# Instructions that the verifier walks, the most over all settings. Written by\n# go test ./bpf/test -run EveryObject -update\nkernel " + release(t) + "\n" + strings.Join(lines, "")
	if err := os.WriteFile(instructionsFile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
