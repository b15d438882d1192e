// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// runServe runs all servers in one process, so that one pod has all of them.
func runServe(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	offset := fs.Int("offset", 0, "added to every port, for where the usual ones are taken")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range []struct {
		port int
		run  func(context.Context, []string) error
		args []string
	}{{80, runHTTP, []string{"-quiet"}}, {7, runTCPEcho, nil}, {7, runUDPEcho, nil}, {9000, runStreamRecv, nil}} {
		g.Go(func() error { return s.run(ctx, append(s.args, "-listen", fmt.Sprintf(":%d", s.port+*offset))) })
	}
	return g.Wait()
}
