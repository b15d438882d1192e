// SPDX-License-Identifier: Apache-2.0

package role

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/agent"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/proxyd"
)

// proxyKeys are those of the agent that the proxy reads, too.
var proxyKeys = []string{"debug", "enable-ipv4", "enable-ipv6", "socket-path", "state-dir", "bpf-root"}

// NewCmdProxy makes `proxy`.
func NewCmdProxy(f *command.Factory, runF func(context.Context, proxyd.Options) error) *cobra.Command {
	var dir, ready, check string
	var drain time.Duration
	cmd := &cobra.Command{
		Use: "proxy", Args: command.NoArgs,
		Short: "Run the L7 proxy of a node",
		Long: `Run the L7 proxy of a node: it takes part in the connections that policy with
L7 rules selects. It goes on without an agent. A second one takes over new
connections from the first, which ends when its own have ended.`,
		Example: `  stentor proxy --config-dir /etc/stentor/config
  stentor proxy --check-ready /tmp/ready`,
	}
	cmd.Flags().StringVar(&dir, "config-dir", "", "directory with one file for each key")
	cmd.Flags().StringVar(&ready, "ready-file", "", "file that is written once new connections come here")
	cmd.Flags().StringVar(&check, "check-ready", "", "do nothing but look whether that file is there")
	cmd.Flags().DurationVar(&drain, "drain", 50*time.Second, "how long connections may go on once the proxy is told to end")
	help := map[string]string{}
	for _, k := range agent.Schema() {
		if slices.Contains(proxyKeys, k.Name) {
			help[k.Name] = k.Help
		}
	}
	given := keyFlags(cmd, help)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if check != "" {
			if _, err := os.Stat(check); err != nil {
				return fmt.Errorf("the proxy is not ready: %w", err)
			}
			return nil
		}
		s, err := read(proxyKeys, dir, os.Getenv, given())
		if err != nil {
			return err
		}
		o := proxyd.Options{
			Socket:    filepath.Join(filepath.Dir(s.or("socket-path")), agent.ProxySocket),
			StateDir:  filepath.Join(s.or("state-dir"), "proxy"),
			BPFDir:    filepath.Join(s.or("bpf-root"), "stentor"),
			IPv4:      s.flag("enable-ipv4", true),
			IPv6:      s.flag("enable-ipv6", false),
			ReadyFile: ready, Drain: drain, Version: f.Version,
		}
		debug := s.flag("debug", false)
		if s.err != nil {
			return s.err
		}
		if runF != nil {
			return runF(cmd.Context(), o)
		}
		return proxyd.Run(cmd.Context(), logger(f.Streams, debug), o)
	}
	return cmd
}
