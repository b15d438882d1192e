// SPDX-License-Identifier: Apache-2.0

// stentor-bench measures Stentor beside the kernel's own ways: see README.md.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/stentor-net/stentor/internal/bench"
	"github.com/stentor-net/stentor/lab/bench/internal/measure"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		exit(measure.Child(os.Args[2:], os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(os.Args) > 2 && os.Args[1] == "apart":
		exit(apart(ctx, os.Args[2:]))
	case len(os.Args) == 2 && os.Args[1] == "onnode":
		exit(measure.OnNode(ctx, os.Stdin, os.Stdout))
	}
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "stentor-bench: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// apart measures one part for another process of this program.
func apart(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("apart", flag.ContinueOnError)
	root := flags.String("root", ".", "")
	fast := flags.Bool("fast", false, "")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	return measure.Apart(ctx, &measure.Env{Root: *root, Bin: filepath.Join(*root, "bin"), Fast: *fast, Log: os.Stderr}, args[0])
}

func run(ctx context.Context) error {
	root := flag.String("root", ".", "the source tree")
	only := flag.String("run", "", "only the parts whose name matches this expression")
	lab := flag.String("lab", "bench", "name of the lab; one that is up is used and left up")
	fast := flag.Bool("fast", false, "few rounds: shows that the parts work, not what they measure")
	data := flag.String("json", "", "file for all samples")
	page := flag.String("page", "", "file for the page")
	sheet := flag.String("csv", "", "file for all values")
	services := flag.Bool("services", false, "the parts about many services, instead of the others")
	list := flag.Bool("list", false, "list the parts")
	flag.Parse()
	parts, command := measure.Parts(), "make bench"
	if *services {
		parts, command = measure.ServiceParts(), "make bench-services"
	}
	if *list {
		for _, p := range parts {
			fmt.Printf("%-10s %s\n", p.Name, p.Title)
		}
		return nil
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if os.Geteuid() != 0 {
		return errors.New("measuring needs root: it makes network namespaces and loads programs")
	}
	dir, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	r := result{Machine: measure.Machine(), Time: time.Now().UTC().Truncate(time.Second), Command: command}
	if *only != "" {
		r.Command += " BENCH='" + *only + "'"
	}
	e := &measure.Env{Root: dir, Bin: filepath.Join(dir, "bin"), Lab: *lab, Fast: *fast, Log: os.Stderr}
	rows, failed := measure.Run(ctx, e, parts, match)
	r.Rows = rows
	bench.Print(os.Stdout, rows)
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted: no file is written"), failed)
	}
	return errors.Join(failed, r.write(*data, *page, *sheet))
}

// result is everything that is written to files.
type result struct {
	Time    time.Time   `json:"time"`
	Command string      `json:"command"`
	Machine []string    `json:"machine"`
	Rows    []bench.Row `json:"rows"`
}

func (r result) write(data, page, sheet string) error {
	if sheet != "" {
		var b bytes.Buffer
		if err := bench.CSV(&b, r.Rows); err != nil {
			return err
		}
		if err := os.WriteFile(sheet, b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if data != "" {
		b, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(data, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if page == "" {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Measurements\n\n`%s`, %s, on %s.\n", r.Command, r.Time.Format("2006-01-02 15:04 MST"), strings.Join(r.Machine, ", "))
	b.WriteString("\nA bar is missed only if the whole 95 % interval is beyond it; *open* means that the value is, but not the interval. Rows without a bar are shown, not judged. What is compared is measured in turns. [How](../../lab/bench/README.md).\n")
	bench.Markdown(&b, r.Rows)
	return os.WriteFile(page, []byte(b.String()), 0o644)
}
