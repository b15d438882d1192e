// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/lab/internal/cluster"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

func newList() *cobra.Command {
	stateRoot := ""
	cmd := &cobra.Command{
		Use: "list", Short: "Name the labs of this machine, whatever state they are in", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := cluster.Names(stateRoot)
			if err != nil {
				return err
			}
			for _, n := range names {
				fmt.Fprintln(cmd.OutOrStdout(), n)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&stateRoot, "state-dir", plan.DefaultStateRoot, "folder for the labs' files")
	return cmd
}
