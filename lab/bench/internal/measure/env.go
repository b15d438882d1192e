// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stentor-net/stentor/internal/bench"
)

// Env is what a part of the measurements works with.
type Env struct {
	Root string // of the source tree
	Bin  string // where binaries are
	Lab  string // name of the lab, for the parts that need one
	Fast bool   // few rounds: to see that the parts work
	Log  io.Writer

	part string
	rows []bench.Row
	lab  *labEnv
}

// Add takes rows of the part that runs.
func (e *Env) Add(rows ...bench.Row) {
	for _, r := range rows {
		fmt.Fprintf(e.Log, "  %s\n", r)
	}
	e.take(rows)
}

func (e *Env) take(rows []bench.Row) {
	for _, r := range rows {
		r.Part = e.part
		e.rows = append(e.rows, r)
	}
}

// progress says how far the part that runs is.
func (e *Env) progress(format string, args ...any) {
	fmt.Fprintf(e.Log, "  ... "+format+"\n", args...)
}

func (e *Env) rounds(n int) int {
	if e.Fast {
		return min(n, 3)
	}
	return n
}

// Part is a group of rows that are measured together.
type Part struct {
	Name  string // what BENCH matches
	Title string // of its table
	Run   func(context.Context, *Env) error
	Apart bool          // in a process of its own, off the processor of both ends, see Env.apart
	Wide  bool          // on every processor all the same
	Limit time.Duration // ends a part that hangs; 0: partLimit
}

// partLimit ends a part that hangs and has no limit of its own.
const partLimit = 5 * time.Minute

// Run measures those parts that match, in their order. A part that fails leaves
// the rows that it has measured and one that says so; the others go on.
func Run(ctx context.Context, e *Env, parts []Part, only *regexp.Regexp) ([]bench.Row, error) {
	defer e.closeLab()
	parts = slices.DeleteFunc(slices.Clone(parts), func(p Part) bool { return !only.MatchString(p.Name) })
	if len(parts) == 0 {
		return nil, fmt.Errorf("no part matches %q (see -list)", only)
	}
	var errs []error
	begin := time.Now()
	for i, p := range parts {
		start := time.Now()
		e.part = p.Title
		fmt.Fprintf(e.Log, "[%d of %d, after %s] %s: %s\n", i+1, len(parts), time.Since(begin).Round(time.Second), p.Name, p.Title)
		run := p.Run
		if p.Apart {
			run = func(ctx context.Context, e *Env) error { return e.apart(ctx, p) }
		}
		limit := cmp.Or(p.Limit, partLimit)
		limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it takes longer than %s", limit))
		err := run(limited, e)
		if err != nil && ctx.Err() == nil && limited.Err() != nil {
			err = errors.Join(context.Cause(limited), err)
		}
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Name, err))
			e.Add(bench.Unmeasured("what else part "+p.Name+" measures", err))
		}
		fmt.Fprintf(e.Log, "%s: %s\n", p.Name, time.Since(start).Round(time.Second))
		if ctx.Err() != nil {
			break
		}
	}
	return e.rows, errors.Join(errs...)
}

// goTest is a part that tests or benchmarks of the main module measure: they
// hand their rows to bench.Report.
func goTest(pkg string, args ...string) func(context.Context, *Env) error {
	return func(ctx context.Context, e *Env) error {
		dir, err := os.MkdirTemp("", "stentor-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "rows")
		cmd := exec.CommandContext(ctx, "go", append(append([]string{"test", "-count=1"}, args...), pkg)...)
		cmd.Dir = e.Root
		cmd.Env = append(os.Environ(), bench.FileEnv+"="+file)
		// The test ends with the tool that runs it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("go test %s: %w\n%s", pkg, err, out)
		}
		rows, readErr := bench.Read(file)
		if err == nil && len(rows) == 0 {
			err = fmt.Errorf("go test %s %s: no rows\n%s", strings.Join(args, " "), pkg, out)
		}
		e.Add(rows...)
		return errors.Join(err, readErr)
	}
}

// Machine says what the numbers were measured on.
func Machine() []string {
	read := func(path string) string {
		b, _ := os.ReadFile(path)
		return strings.TrimSpace(string(b))
	}
	out := []string{"Linux " + read("/proc/sys/kernel/osrelease")}
	cpu, cpus := "", 0
	s := bufio.NewScanner(strings.NewReader(read("/proc/cpuinfo")))
	for s.Scan() {
		k, v, _ := strings.Cut(s.Text(), ":")
		if strings.TrimSpace(k) == "model name" {
			cpu = strings.TrimSpace(v)
			cpus++
		}
	}
	out = append(out, fmt.Sprintf("%d x %s", cpus, cpu))
	for line := range strings.Lines(read("/proc/meminfo")) {
		if v, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			var kib int
			fmt.Sscan(v, &kib)
			out = append(out, fmt.Sprintf("%d GiB of memory", (kib+(1<<19))>>20))
		}
	}
	return append(out, "JIT "+read("/proc/sys/net/core/bpf_jit_enable")+", load when it began "+strings.Join(strings.Fields(read("/proc/loadavg"))[:3], " "))
}

// cgroupRoot is where the version 2 hierarchy is mounted.
func cgroupRoot() (string, error) {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted")
}
