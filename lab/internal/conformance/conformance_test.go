// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

func TestASuiteChoosesItsSpecsAndSaysWhatCannotRun(t *testing.T) {
	here := false
	s := Suite{
		focus: `\[net\]`, skip: `\[Serial\]`,
		needs: []need{{match: "SCTP", reason: "no SCTP", here: func(*plan.Plan) bool { return here }}},
	}
	all := []string{"[net] a", "[net] b [Serial]", "[net] c SCTP", "[storage] d"}
	any := regexp.MustCompile("")
	run, out := s.choose(nil, all, any)
	if !slices.Equal(run, []string{"[net] a"}) {
		t.Errorf("runs %q, want a alone", run)
	}
	if !slices.Equal(out, []leftOut{{"[net] c SCTP", "no SCTP"}}) {
		t.Errorf("leaves out %q, want c", out)
	}
	here = true
	if run, out = s.choose(nil, all, any); len(run) != 2 || len(out) != 0 {
		t.Errorf("with SCTP it runs %q and leaves out %q, want a and c to run", run, out)
	}
	if run, _ = s.choose(nil, all, regexp.MustCompile("^.net. c")); !slices.Equal(run, []string{"[net] c SCTP"}) {
		t.Errorf("of c alone it runs %q", run)
	}
}

func TestAnUnknownSuiteIsAnErrorThatNamesTheKnown(t *testing.T) {
	_, err := Find("nonsense")
	if err == nil {
		t.Fatal("no error")
	}
	for _, s := range Suites {
		if !strings.Contains(err.Error(), s.Name) {
			t.Errorf("%v does not name %s", err, s.Name)
		}
	}
}

func TestEventsAreReadOnceAndWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	r := &reader{path: path}
	read := func() (names []string) {
		t.Helper()
		events, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			names = append(names, e.Name)
		}
		return names
	}
	if got := read(); got != nil {
		t.Errorf("no file gives %q", got)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, step := range []struct {
		write string
		want  []string
	}{
		{`{"name":"a"}` + "\n" + `{"na`, []string{"a"}},
		{"", nil},
		{`me":"b"}` + "\n" + `{"name":"c"}` + "\n", []string{"b", "c"}},
	} {
		if _, err := f.WriteString(step.write); err != nil {
			t.Fatal(err)
		}
		if got := read(); !slices.Equal(got, step.want) {
			t.Errorf("after %q: %q, want %q", step.write, got, step.want)
		}
	}
	if _, err := f.WriteString("nonsense\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.next(); err == nil {
		t.Error("a line that is no event is no error")
	}
}

func TestASumFailsForFailuresAndForSpecsThatDidNotEnd(t *testing.T) {
	out := progress.New(os.Stderr)
	for _, c := range []struct {
		name   string
		events []event
		want   string // of the error; "" for none
	}{
		{"all passed", []event{{Name: "a", State: "passed"}, {Name: "b", State: "passed"}}, ""},
		{"one skipped itself", []event{{Name: "a", State: "passed"}, {Name: "b", State: "skipped", Message: "one node"}}, ""},
		{"one not selected", []event{{Name: "a", State: "passed"}, {Name: "x", State: "skipped"}, {Name: "b", State: "passed"}}, ""},
		{"one failed", []event{{Name: "a", State: "failed", Message: "no answer"}, {Name: "b", State: "passed"}}, "1 specs failed and 0 did not end, of 2"},
		{"one panicked", []event{{Name: "a", State: "panicked"}, {Name: "b", State: "passed"}}, "1 specs failed and 0 did not end, of 2"},
		{"one did not end", []event{{Name: "a", State: "passed"}}, "0 specs failed and 1 did not end, of 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSummary([]string{"a", "b"}, "", "")
			for _, e := range c.events {
				s.add(e, out)
			}
			got := ""
			if err := s.err(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("error %q, want %q", got, c.want)
			}
		})
	}
}
