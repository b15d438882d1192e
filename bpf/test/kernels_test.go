// SPDX-License-Identifier: Apache-2.0

//go:build kernels

package test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

const noKernel = 77 // exit code of vm.sh

// counting guards the file of counts.
var counting sync.Mutex

// TestOtherKernels boots the kernels that we claim besides the one that runs
// here, and runs on each what vm.sh lists: the gate, packets, traffic.
func TestOtherKernels(t *testing.T) {
	for _, series := range []string{"6.1", "6.12"} {
		t.Run(series, func(t *testing.T) {
			t.Parallel() // each waits for its clock most of the time
			out, err := inMachine(t, series)
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.ExitCode() == noKernel {
				t.Skip(strings.TrimSpace(out.talk))
			}
			if err != nil {
				t.Fatalf("bpf/test/vm.sh %s: %v\n%s", series, err, out.troubles())
			}
			for _, p := range []string{"TestEveryObjectLoadsWithEverySetting", "TestPodsReachEachOther", "TestTheKernelHandsConnectionsToAProxy"} {
				if !strings.Contains(out.talk, "--- PASS: "+p+" ") {
					t.Errorf("%s did not pass there", p)
				}
			}
			t.Logf("%d tests passed", strings.Count(out.talk, "--- PASS: "))
			if *update {
				takeCounts(t, series, out.counts)
			}
		})
	}
}

type machineOutput struct {
	talk   string
	counts []byte // the file of counts as the machine left it
}

// troubles is what was said without the lines about tests that passed.
func (m machineOutput) troubles() string {
	var b strings.Builder
	for line := range strings.Lines(m.talk) {
		if !strings.Contains(line, "=== ") && !strings.Contains(line, "--- PASS: ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func inMachine(t *testing.T, series string) (out machineOutput, err error) {
	args := []string{series, "--"}
	if *update {
		args = append(args, "-update")
		if *why != "" {
			args = append(args, "-why", "'"+*why+"'")
		}
	}
	cmd := exec.CommandContext(t.Context(), "./vm.sh", args...)
	if os.Getenv(inNamespace) != "" { // Debian's archive is out there, where our parent is
		cmd = exec.CommandContext(t.Context(), "nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", os.Getppid()), "./vm.sh"}, args...)...)
	}
	text, err := cmd.CombinedOutput()
	var talk strings.Builder
	for s := bufio.NewScanner(strings.NewReader(string(text))); s.Scan(); {
		if line, ok := strings.CutPrefix(s.Text(), "instructions: "); ok {
			out.counts = append(out.counts, line+"\n"...)
		} else {
			talk.WriteString("| " + s.Text() + "\n") // so that no line looks like one of this test
		}
	}
	out.talk = talk.String()
	return out, err
}

// takeCounts writes the column of a kernel.
func takeCounts(t *testing.T, series string, theirs []byte) {
	t.Helper()
	counting.Lock()
	defer counting.Unlock()
	text, err := os.ReadFile(countsFile)
	if err != nil {
		t.Fatal(err)
	}
	own, err := readCounts(text)
	if err != nil {
		t.Fatal(err)
	}
	c, err := readCounts(theirs)
	if err != nil || len(c.columns[series]) == 0 {
		t.Fatalf("%s in the machine: %v\n%s", countsFile, err, theirs)
	}
	own.columns[series] = c.columns[series]
	for _, line := range c.why {
		if strings.Contains(line, " "+series+" ") && !strings.Contains(string(text), line) {
			own.why = append(own.why, line)
		}
	}
	if err := os.WriteFile(countsFile, own.text(), 0o644); err != nil {
		t.Fatal(err)
	}
}
