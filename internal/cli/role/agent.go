// SPDX-License-Identifier: Apache-2.0

package role

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/agent"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// collectAt is by how many percent the agent's heap grows before it is collected.
// The agent rests most of the time, so memory costs its node more than collecting does.
const collectAt = 50

// NewCmdAgent makes `agent`.
func NewCmdAgent(f *command.Factory, runF func(context.Context, agent.Options) error) *cobra.Command {
	var dir string
	var explain bool
	cmd := &cobra.Command{
		Use: "agent", Args: command.NoArgs,
		Short: "Run the agent of a node",
		Long: `Run the agent of a node: it owns the network of the node's pods. When it ends,
the kernel goes on with what it was told; the next agent adopts it.

Options come from a directory with one file for each key, as a mounted ConfigMap
has them, from variables such as STENTOR_ROUTING_MODE, and from flags; the last
wins. --explain-config lists them.`,
		Example: `  stentor agent --config-dir /etc/stentor/config
  stentor agent --explain-config`,
	}
	cmd.Flags().StringVar(&dir, "config-dir", "", "directory with one file for each key")
	cmd.Flags().BoolVar(&explain, "explain-config", false, "list all options with their defaults, and end")
	keys := map[string]string{}
	for _, k := range agent.Schema() {
		if k.For == "agent" {
			keys[k.Name] = k.Help
		}
	}
	given := keyFlags(cmd, keys)
	for name := range keys {
		_ = cmd.Flags().MarkHidden(name) // --explain-config shows them with their defaults
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if explain {
			return agent.Explain(f.Out)
		}
		o, err := agent.Load(agent.Sources{ConfigDir: dir, Environ: os.Environ(), Flags: given()})
		if err != nil {
			return err
		}
		o.Version = f.Version
		if runF != nil {
			return runF(cmd.Context(), o)
		}
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(collectAt)
		}
		return agent.Run(cmd.Context(), logger(f.Streams, o.Debug), o)
	}
	return cmd
}
