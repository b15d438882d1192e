// SPDX-License-Identifier: Apache-2.0

// Package cleanup removes from a node what the agent left in its kernel.
package cleanup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/agent"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/datapath"
)

// Options of `cleanup`.
type Options struct {
	command.Streams
	// Datapath removes programs, maps, links, routes and rules.
	Datapath func(context.Context, datapath.Config) error

	Force   bool
	BPFDir  string // of our pins
	Socket  string
	CNIConf string // configuration to remove; "": none
	CNIBin  string // plugin to remove; "": none
}

// NewCmd makes `cleanup`.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	o := &Options{Streams: f.Streams, Datapath: datapath.Cleanup}
	cmd := &cobra.Command{
		Use: "cleanup", Aliases: []string{"post-uninstall-cleanup"}, Args: command.NoArgs,
		Short: "Remove all of Stentor from this node",
		Long: `Remove all of Stentor from this node: programs, maps, interfaces of pods, routes
and rules, the agent's state, the CNI configuration and the plugin; other CNI
configurations get their names back. Pods that run here lose their network.

The agent must not run. It asks before it begins unless --force is given.`,
		Example: `  stentor cleanup
  stentor cleanup --force --cni-conf /etc/cni/net.d/05-stentor.conflist`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Socket = f.Socket()
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return run(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "do not ask")
	cmd.Flags().StringVar(&o.BPFDir, "bpf-dir", "/sys/fs/bpf/stentor", "directory of our maps and programs")
	cmd.Flags().StringVar(&o.CNIConf, "cni-conf", "/etc/cni/net.d/05-stentor.conflist", "CNI configuration to remove; empty: none")
	cmd.Flags().StringVar(&o.CNIBin, "cni-plugin", "/opt/cni/bin/stentor-cni", "CNI plugin to remove; empty: none")
	return cmd
}

func run(ctx context.Context, o *Options) error {
	if conn, err := net.Dial("unix", o.Socket); err == nil {
		conn.Close()
		return fmt.Errorf("the agent runs: it answers at %s; stop it first", o.Socket)
	}
	if !o.Force {
		fmt.Fprint(o.Err, "Pods on this node lose their network. Remove all of Stentor? [y/N] ")
		answer, _ := bufio.NewReader(o.In).ReadString('\n') // no answer is a no
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return errors.New("nothing removed")
		}
	}
	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			return
		}
		fmt.Fprintln(o.Err, "removed", what)
	}
	if o.CNIConf != "" {
		step("CNI configuration", agent.RemoveCNIConf(o.CNIConf))
	}
	if o.CNIBin != "" {
		step("CNI plugin", remove(o.CNIBin))
	}
	step("datapath", o.Datapath(ctx, datapath.Config{BPFDir: o.BPFDir}))
	step("state of the agent", removeState(filepath.Dir(o.Socket)))
	return errors.Join(errs...)
}

// remove is fine with what is not there.
func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeState empties the agent's run directory, which may be a mount and stays.
func removeState(dir string) error {
	if filepath.Base(dir) != "stentor" {
		return fmt.Errorf("%s is not named stentor: left as it is", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
