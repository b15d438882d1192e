// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stentor-net/stentor/lab/internal/image"
	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

// Options say what to run, where and for how long.
type Options struct {
	Plan   *plan.Plan
	BinDir string // with stentor-lab, ginkgo and network.test
	Suite  Suite
	Only   *regexp.Regexp // names of specs match it as well
	Procs  int            // specs at the same time
	Limit  time.Duration  // for all specs together
	Report string         // folder for the JUnit file, the log and the list of events
	Out    *progress.Printer
}

// Binaries are what the suite needs beside the lab's own.
func Binaries() []string {
	return append([]string{"ginkgo", "network.test"}, image.Binaries(image.Upstream)...)
}

// gracePeriod is for specs to clean up when the time is over.
const gracePeriod = 30 * time.Second

type runner struct {
	Options
	test string // the suite's binary
}

// Run runs the suite and prints how each spec ended, then the sum. An error
// means that it did not run as a whole, or that a spec failed.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Report, 0o755); err != nil {
		return err
	}
	r := &runner{Options: o, test: filepath.Join(o.BinDir, "network.test")}
	if err := r.checkImages(ctx); err != nil {
		return err
	}
	all, err := r.list(ctx)
	if err != nil {
		return err
	}
	run, out := o.Suite.choose(o.Plan, all, o.Only)
	if len(run) == 0 {
		return fmt.Errorf("suite %s has no spec that matches %q and can run here", o.Suite.Name, o.Only)
	}
	o.Out.Step("suite %s: %d specs, %d at the same time", o.Suite.Name, len(run), o.Procs)
	s, err := r.specs(ctx, run)
	s.leftOut = out
	s.print(o.Out)
	if err != nil {
		return err
	}
	return s.err()
}

// path of a file of this run.
func (r *runner) path(kind, suffix string) string {
	return filepath.Join(r.Report, kind+"-"+r.Suite.Name+suffix)
}

// command prepares a program of the suite on the fabric. All it starts is in
// the lab's cgroup and ends with the lab, at the latest.
func (r *runner) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	p := r.Plan
	all := append([]string{"exec", "--name", p.Name, "--state-dir", p.StateRoot, "fabric", "--", program}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(r.BinDir, "stentor-lab"), all...)
	cmd.Dir = r.Report
	return cmd
}

// suiteArgs are the suite's own flags: it is told to expect no cloud and to
// leave the logs of the cluster alone.
func (r *runner) suiteArgs(events string) []string {
	return []string{
		"--kubeconfig=" + r.Plan.Path("kubeconfig.inside"), "--provider=skeleton", "--node-os-distro=debian",
		"--disable-log-dump", "--dump-logs-on-failure=false", "--events=" + events,
		"--num-nodes=" + strconv.Itoa(len(r.Plan.Nodes)),
	}
}

// checkImages compares the images of the lab with those that the suite asks for.
func (r *runner) checkImages(ctx context.Context) error {
	out, err := r.command(ctx, r.test, "--list-images").Output()
	if err != nil {
		return fmt.Errorf("ask the suite for its images: %w%s", err, stderr(err))
	}
	wanted := strings.Fields(string(out))
	for _, n := range image.UpstreamNames() {
		if !slices.Contains(wanted, n) {
			return fmt.Errorf("the suite does not know the image %s: it was built from another version of Kubernetes than the lab's images", n)
		}
	}
	return nil
}

func stderr(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return ": " + strings.TrimSpace(string(exit.Stderr))
	}
	return ""
}

// list names all specs that the binary holds.
func (r *runner) list(ctx context.Context) ([]string, error) {
	file := r.path("specs", ".jsonl")
	if err := os.RemoveAll(file); err != nil {
		return nil, err
	}
	args := append([]string{"--ginkgo.dry-run", "--ginkgo.silence-skips"}, r.suiteArgs(file)...)
	if out, err := r.command(ctx, r.test, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("list the specs: %w: %s", err, lastLines(out, 5))
	}
	events, err := (&reader{path: file}).next()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range events {
		names = append(names, e.Name)
	}
	return names, os.Remove(file)
}

func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// specs runs those named and follows their events.
func (r *runner) specs(ctx context.Context, names []string) (*summary, error) {
	events, junit, log := r.path("events", ".jsonl"), r.path("junit", ".xml"), r.path("log", ".txt")
	for _, f := range []string{events, junit, log} {
		if err := os.RemoveAll(f); err != nil {
			return nil, err
		}
	}
	args := []string{
		"--procs=" + strconv.Itoa(r.Procs), "--no-color", "--timeout=" + r.Limit.String(), "--grace-period=" + gracePeriod.String(),
		"--output-dir=" + r.Report, "--junit-report=" + filepath.Base(junit), "--silence-skips",
	}
	for _, n := range names {
		args = append(args, "--focus="+regexp.QuoteMeta(n)+"$")
	}
	args = append(append(args, r.test, "--"), r.suiteArgs(events)...)
	// Ginkgo keeps the time; this is for when it does not.
	ctx, cancel := context.WithTimeout(ctx, r.Limit+2*gracePeriod)
	defer cancel()
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := r.command(ctx, filepath.Join(r.BinDir, "ginkgo"), args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = gracePeriod
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	s := newSummary(names, junit, log)
	follow := reader{path: events}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		var end error
		ended := false
		select {
		case end = <-done:
			ended = true
		case <-tick.C:
		}
		news, err := follow.next()
		if err != nil {
			cancel()
			return s, err
		}
		for _, e := range news {
			s.add(e, r.Out)
		}
		if ended {
			return s, r.why(ctx, end, s)
		}
	}
}

// why explains an end of Ginkgo that the specs' own failures do not.
func (r *runner) why(ctx context.Context, end error, s *summary) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the suite did not end within %s", r.Limit)
	}
	if end == nil || len(s.failures) > 0 {
		return nil
	}
	text, err := os.ReadFile(r.path("log", ".txt"))
	if err != nil {
		return err
	}
	return fmt.Errorf("the suite ended with %w:\n%s", end, lastLines(text, 15))
}
