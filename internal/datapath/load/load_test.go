// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/link"
)

func TestErrorsOfTheKernelSayWhatToDo(t *testing.T) {
	var log []string
	for i := range 100 {
		log = append(log, fmt.Sprintf("line %d.", i))
	}
	for _, x := range []struct {
		err      error
		want     []string
		unwanted string
	}{
		{fmt.Errorf("load: %w", unix.EPERM), []string{"CAP_BPF", "CAP_NET_ADMIN"}, "6.1"},
		{fmt.Errorf("load: %w", unix.EINVAL), []string{"kernel 6.1", Release()}, "CAP_BPF"},
		{&ebpf.VerifierError{Cause: unix.EACCES, Log: log}, []string{"line 99.", "line 80.", "verifier"}, "line 79."},
		{errors.New("something else"), []string{"something else"}, "kernel"},
	} {
		got := explain(x.err).Error()
		for _, w := range x.want {
			if !strings.Contains(got, w) {
				t.Errorf("%q does not say %q", got, w)
			}
		}
		if strings.Contains(got, x.unwanted) {
			t.Errorf("%q says %q", got, x.unwanted)
		}
	}
}

func TestEveryConstantOfTheProgramsIsSet(t *testing.T) {
	specs, err := Parse()
	if err != nil {
		t.Fatal(err)
	}
	p := &Programs{opt: Options{Devices: link.Devices{}}}
	set := p.constants(link.Device{})
	known := map[string]bool{abi.ConfigNATPortMin: true, abi.ConfigNATPortMax: true} // their defaults hold
	for _, c := range []*ebpf.CollectionSpec{specs.endpoint, specs.overlay, specs.net, specs.sock} {
		for name, v := range c.Variables {
			if !strings.HasPrefix(name, "cfg_") || known[name] {
				continue
			}
			value, ok := set[name]
			if !ok {
				t.Errorf("%s is never set", name)
			} else if err := v.Set(value); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestEverySocketProgramHasAHook(t *testing.T) {
	specs, err := Parse()
	if err != nil {
		t.Fatal(err)
	}
	for name, prog := range specs.sock.Programs {
		if kind, ok := attachTypes[name]; !ok || kind != prog.AttachType {
			t.Errorf("%s is to be attached as %v, it is made for %v", name, kind, prog.AttachType)
		}
	}
}

func TestWithoutACgroupHierarchyTheOptionIsNamed(t *testing.T) {
	if _, err := cgroupRoot(t.TempDir()); err == nil || !strings.Contains(err.Error(), "cgroup v2") {
		t.Errorf("error %v", err)
	}
}

func TestAKernelThatIsTooOldIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to load BPF programs")
	}
	const unknown = 9999 // no kernel has this helper, as an older one lacks those of ours
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"new": {Name: "new", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.BuiltinFunc(unknown).Call(), asm.Mov.Imm(asm.R0, 0), asm.Return()}}}}
	_, err := (&Programs{}).collection("endpoint", spec, nil, link.Device{})
	if err == nil {
		t.Fatal("it loads")
	}
	for _, want := range []string{"load endpoint programs", "6.1 or later is needed, this is " + Release(), fmt.Sprint(unknown)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message does not say %q: %v", want, err)
		}
	}
}
