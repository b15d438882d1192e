// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// outcome of a mutant.
type outcome struct {
	said []string // a line of each test that saw it
	err  error    // it survived, or could not be tried
}

// runner tries mutants; its methods may be called concurrently, since processes
// of one test share no place.
type runner struct{ root, dir string } // of the tree; for what is built

// try builds the mutant and runs its tests.
func (r *runner) try(ctx context.Context, number int, m mutant) (out outcome) {
	dir := filepath.Join(r.dir, fmt.Sprint(number))
	defer os.RemoveAll(dir)
	list, err := overlay(ctx, r.root, dir, m)
	if err != nil {
		return outcome{err: err}
	}
	for _, p := range m.tests {
		printed, passed, err := r.test(ctx, dir, p.folder, exactly(p.test), "-overlay="+list)
		line := lineWith(printed, p.says)
		switch {
		case err != nil:
			out.err = err
		case !strings.Contains(printed, "=== RUN   "+strings.ReplaceAll(p.test, " ", "_")+"\n"):
			out.err = fmt.Errorf("there is no test %s", p.test)
		case passed:
			out.err = fmt.Errorf("SURVIVES %s", p.test)
		case line == "":
			out.err = fmt.Errorf("%s fails without saying %q:\n%s", p.test, p.says, tail(printed))
		}
		if out.err != nil {
			return out
		}
		out.said = append(out.said, p.test+": "+line)
	}
	return out
}

// test runs tests of a folder. The error is of what kept them from running.
func (r *runner) test(ctx context.Context, dir, folder, pattern string, flags ...string) (printed string, passed bool, err error) {
	binary := filepath.Join(dir, strings.ReplaceAll(folder, "/", "_")+".test")
	build := exec.CommandContext(ctx, "go", slices.Concat([]string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary}, flags, []string{"./" + folder})...)
	build.Dir = r.root
	if b, err := build.CombinedOutput(); err != nil {
		return "", false, fmt.Errorf("build the tests of %s: %w\n%s", folder, err, tail(string(b)))
	}
	run := exec.CommandContext(ctx, binary, "-test.run", pattern, "-test.timeout", "3m", "-test.v")
	run.Dir = filepath.Join(r.root, folder)
	b, err := run.CombinedOutput()
	printed = string(b)
	if !strings.Contains(printed, "=== RUN") || strings.Contains(printed, "--- SKIP") {
		return printed, false, fmt.Errorf("no test %s of %s has run:\n%s", pattern, folder, tail(printed))
	}
	return printed, err == nil, nil
}

// sane wants every test to pass on the tree as it is: what fails anyway proves nothing.
func (r *runner) sane(ctx context.Context, mutants []mutant, jobs int) error {
	byFolder := map[string][]string{}
	for _, m := range mutants {
		for _, p := range m.tests {
			if name := p.function(); !slices.Contains(byFolder[p.folder], name) {
				byFolder[p.folder] = append(byFolder[p.folder], name)
			}
		}
	}
	dir := filepath.Join(r.dir, "sane")
	defer os.RemoveAll(dir)
	var all errgroup.Group
	all.SetLimit(jobs)
	for folder, tests := range byFolder {
		all.Go(func() error {
			printed, passed, err := r.test(ctx, dir, folder, "^("+strings.Join(tests, "|")+")$")
			if err == nil && !passed { // perhaps the machine was busy
				printed, passed, err = r.test(ctx, dir, folder, "^("+strings.Join(tests, "|")+")$")
			}
			if err == nil && !passed {
				err = fmt.Errorf("%s fails without any mutant:\n%s", folder, tail(printed))
			}
			return err
		})
	}
	return all.Wait()
}

// lineWith is the line that has the text, without the place of the test before it.
func lineWith(printed, text string) string {
	for line := range strings.Lines(printed) {
		if strings.Contains(line, text) && !strings.HasPrefix(line, "=== ") {
			line = strings.TrimSpace(line)
			if place, rest, ok := strings.Cut(line, ": "); ok && strings.Contains(place, "_test.go:") && strings.Contains(rest, text) {
				line = rest
			}
			return line
		}
	}
	return ""
}

// exactly matches a test, or a part of one, and no other.
func exactly(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// tail is what was printed about failures, or the end of it.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	failures := slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		return !strings.Contains(l, "_test.go:") && !strings.Contains(l, "--- FAIL") && !strings.HasPrefix(l, "panic:")
	})
	if len(failures) > 0 {
		lines = failures
	}
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}
