// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/bench"
)

func part(name string, rows []string, err error) Part {
	return Part{Name: name, Title: "part " + name, Run: func(_ context.Context, e *Env) error {
		for _, r := range rows {
			e.Add(bench.Single(r, "ns", 1))
		}
		return err
	}}
}

// shown is part, name and verdict of every row.
func shown(rows []bench.Row) (out []string) {
	for _, r := range rows {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s: %s %s", r.Part, r.Name, r.Verdict())))
	}
	return out
}

func TestAPartThatFailsIsMarkedAndTheOthersAreMeasured(t *testing.T) {
	parts := []Part{part("a", []string{"one"}, nil), part("b", []string{"two"}, errors.New("no lab\nand much more")), part("c", []string{"three"}, nil)}
	rows, err := Run(t.Context(), &Env{Log: io.Discard}, parts, regexp.MustCompile(""))
	if err == nil || !strings.Contains(err.Error(), "b: no lab") {
		t.Errorf("error: %v", err)
	}
	want := "part a: one\npart b: two\npart b: what else part b measures FAILED\npart c: three"
	if got := strings.Join(shown(rows), "\n"); got != want {
		t.Errorf("rows:\n%s\nwant\n%s", got, want)
	}
	if rows[2].Failed != "no lab" {
		t.Errorf("why: %q", rows[2].Failed)
	}
}

func TestOnlyPartsThatMatchAreMeasured(t *testing.T) {
	parts := []Part{part("a", []string{"one"}, nil), part("b", []string{"two"}, nil)}
	rows, err := Run(t.Context(), &Env{Log: io.Discard}, parts, regexp.MustCompile("^b$"))
	if got := strings.Join(shown(rows), "\n"); err != nil || got != "part b: two" {
		t.Errorf("%v, rows:\n%s", err, got)
	}
	if _, err := Run(t.Context(), &Env{Log: io.Discard}, parts, regexp.MustCompile("nothing")); err == nil {
		t.Error("no part matches, and that is no error")
	}
}

func TestAnInterruptEndsTheMeasurements(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	interrupted := Part{Name: "a", Title: "part a", Run: func(ctx context.Context, _ *Env) error {
		stop()
		return ctx.Err()
	}}
	rows, err := Run(ctx, &Env{Log: io.Discard}, []Part{interrupted, part("b", []string{"two"}, nil)}, regexp.MustCompile(""))
	if got := strings.Join(shown(rows), "\n"); !errors.Is(err, context.Canceled) || strings.Contains(got, "two") {
		t.Errorf("%v, rows:\n%s", err, got)
	}
}

func TestTheLastLineOfAProcessSaysWhyItFailed(t *testing.T) {
	var l lastLine
	for _, piece := range []string{"  row: 1 ns\n", "stentor-ben", "ch: no lab\n"} {
		fmt.Fprint(&l, piece)
	}
	if got := l.String(); got != "stentor-bench: no lab" {
		t.Errorf("%q", got)
	}
}
