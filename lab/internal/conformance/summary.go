// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"fmt"
	"strings"
	"time"

	"github.com/stentor-net/stentor/lab/internal/progress"
)

// summary counts how specs ended.
type summary struct {
	waiting    map[string]bool // specs that are to end yet
	total      int
	passed     int
	skips      []event
	failures   []event
	leftOut    []leftOut
	junit, log string
	start      time.Time
	took       time.Duration
}

func newSummary(names []string, junit, log string) *summary {
	s := &summary{waiting: map[string]bool{}, total: len(names), junit: junit, log: log, start: time.Now()}
	for _, n := range names {
		s.waiting[n] = true
	}
	return s
}

// add counts a spec, and tells of it.
func (s *summary) add(e event, out *progress.Printer) {
	how := e.outcome()
	if how == ignored || !s.waiting[e.Name] {
		return
	}
	delete(s.waiting, e.Name)
	s.took = time.Since(s.start)
	tell := out.Step
	switch how {
	case passed:
		s.passed++
	case skipped:
		tell = out.Note
		s.skips = append(s.skips, e)
	case failed:
		tell = out.Warn
		s.failures = append(s.failures, e)
	}
	tell("%3d/%d %-7s %5.1fs %s", s.total-len(s.waiting), s.total, how, e.Seconds, short(e.Name))
	if how != passed {
		tell("        %s", strings.ReplaceAll(firstLines(e.Message, 3), "\n", "\n        "))
	}
}

// short leaves out what all names have.
func short(name string) string { return strings.TrimPrefix(name, "[sig-network] ") }

func firstLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

// print tells the sum, and the names of all that did not pass.
func (s *summary) print(out *progress.Printer) {
	for _, l := range s.leftOut {
		out.Note("not run, %s: %s", l.reason, short(l.name))
	}
	for _, e := range s.skips {
		out.Note("skipped: %s: %s", short(e.Name), firstLines(e.Message, 1))
	}
	for name := range s.waiting {
		out.Warn("did not end: %s", short(name))
	}
	for _, e := range s.failures {
		out.Warn("failed: %s (%s)", short(e.Name), e.At)
	}
	tell := out.Step
	if s.err() != nil {
		tell = out.Warn
	}
	tell("%d specs ran in %.1f s: %d passed, %d failed, %d skipped, %d did not end; %d cannot run here",
		s.total-len(s.waiting), s.took.Seconds(), s.passed, len(s.failures), len(s.skips), len(s.waiting), len(s.leftOut))
	out.Note("JUnit report %s, log %s", s.junit, s.log)
}

// err is nil if every spec ended and none failed.
func (s *summary) err() error {
	if len(s.failures) == 0 && len(s.waiting) == 0 {
		return nil
	}
	return fmt.Errorf("%d specs failed and %d did not end, of %d", len(s.failures), len(s.waiting), s.total)
}
