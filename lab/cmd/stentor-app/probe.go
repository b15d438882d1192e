// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// runProbe exits with 1 if any target was not reached.
func runProbe(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("probe", flag.ContinueOnError)
	timeout := fs.Duration("timeout", 2*time.Second, "for each target")
	asJSON := fs.Bool("json", false, "print a list of results in JSON, and exit with 0")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if fs.NArg() == 0 {
		return exitCode{2, errors.New("want TARGET..., such as http://10.0.0.1/ or udp://[fd00::1]:7#size=4000")}
	}
	results := probe.Run(ctx, fs.Args(), *timeout, pingOnce)
	if *asJSON {
		return printJSON(results)
	}
	bad := 0
	for _, r := range results {
		text := r.Body
		if r.Outcome != probe.OK {
			bad++
			text = r.Error
		}
		fmt.Printf("%-11s %8.2f ms  %s  %s\n", r.Outcome, r.MS, r.Target, text)
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d not reached", bad, len(results))
	}
	return nil
}

func pingOnce(ip *net.IPAddr, size int, wait time.Duration) error {
	p, err := newPinger(ip, size)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	_, err = p.once(1, wait)
	return err
}
