// SPDX-License-Identifier: Apache-2.0

// Command mutants proves that the handling of bad input is tested: it breaks
// one piece of it after the other and wants a test to fail, for the reason that
// the list tells. The tree is never changed: the go command reads the mutant
// from an overlay in .build.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	pattern := flag.String("run", "", "only mutants whose row, name or test this regular expression matches")
	slow := flag.Bool("slow", false, "those that take minutes, too")
	jobs := flag.Int("jobs", runtime.NumCPU()+1, "mutants at a time; some tests wait")
	root := flag.String("root", ".", "of the source tree")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, *pattern, *slow, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, pattern string, slow bool, jobs int) error {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	mutants, err := all()
	if err != nil {
		return err
	}
	var chosen []mutant
	for _, m := range mutants {
		if (slow || !m.slow) && wanted.MatchString(fmt.Sprint(m.title(), " ", m.tests)) {
			chosen = append(chosen, m)
		}
	}
	if root, err = filepath.Abs(root); err != nil {
		return err
	}
	build := filepath.Join(root, ".build")
	if err := os.MkdirAll(build, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(build, "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := &runner{root, dir}
	start := time.Now()
	if err := r.sane(ctx, chosen, jobs); err != nil {
		return err
	}
	bad := tryAll(ctx, r, chosen, jobs)
	fmt.Printf("\n%d mutants, %d seen by their tests, %v\n", len(chosen), len(chosen)-bad, time.Since(start).Round(time.Second))
	if bad > 0 || len(chosen) == 0 {
		return fmt.Errorf("%d mutants were not seen as the list says", bad)
	}
	return nil
}

// tryAll prints the table and returns how many were not seen.
func tryAll(ctx context.Context, r *runner, mutants []mutant, jobs int) (bad int) {
	outcomes := make([]chan outcome, len(mutants))
	for i := range outcomes {
		outcomes[i] = make(chan outcome, 1)
	}
	work := make(chan int, len(mutants))
	for i := range mutants {
		work <- i
	}
	close(work)
	for range jobs {
		go func() {
			for i := range work {
				if ctx.Err() != nil {
					outcomes[i] <- outcome{err: ctx.Err()}
					continue
				}
				outcomes[i] <- r.try(ctx, i, mutants[i])
			}
		}()
	}
	row := ""
	for i, m := range mutants {
		o := <-outcomes[i]
		if m.row != row {
			row = m.row
			fmt.Printf("\n%s\n", row)
		}
		if o.err != nil {
			bad++
			fmt.Printf("  FAIL  %s: %v\n", m.name, o.err)
			continue
		}
		fmt.Printf("  ok    %s\n          %s\n", m.name, strings.Join(o.said, "\n          "))
	}
	return bad
}
