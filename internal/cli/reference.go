// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/command"
)

//go:generate go run ../../cmd/stentor reference --file ../../docs/reference/cli.md

// newCmdReference makes the hidden command that writes docs/reference/cli.md.
func newCmdReference(root *cobra.Command) *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use: "reference", Hidden: true, Args: command.NoArgs,
		Short: "Write the reference of all commands as Markdown",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var b strings.Builder
			Reference(&b, root)
			if file == "" {
				_, err := io.WriteString(cmd.OutOrStdout(), b.String())
				return err
			}
			return os.WriteFile(file, []byte(b.String()), 0o644)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file to write (default: standard output)")
	return cmd
}

// Reference writes every command that is not hidden, in the order of the help.
func Reference(w io.Writer, root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	fmt.Fprintf(w, `<!-- Generated from the commands themselves; run "go generate ./internal/cli". DO NOT EDIT. -->
# Commands

%s

Standard output carries data, standard error talk. Exit codes: %d all is well, %d it is
not, %d the command line is wrong. Colours appear on a terminal only, and never when
NO_COLOR is set. Linked as cilium, cilium-dbg or hubble, the program answers to that name.

Every command has these flags:

%s`, root.Long, command.ExitOK, command.ExitError, command.ExitUsage, block(root.PersistentFlags().FlagUsages()))
	for _, cmd := range root.Commands() {
		section(w, cmd)
	}
}

func section(w io.Writer, cmd *cobra.Command) {
	if cmd.Hidden || cmd.Name() == "help" {
		return
	}
	if cmd.HasSubCommands() && cmd.Example == "" {
		fmt.Fprintf(w, "\n## %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
	} else {
		text := cmd.Long
		if text == "" {
			text = cmd.Short + "."
		}
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n%s", cmd.CommandPath(), strings.TrimSpace(text), block(cmd.UseLine()))
		if flags := cmd.LocalFlags().FlagUsages(); flags != "" {
			fmt.Fprintf(w, "\n%s", block(flags))
		}
		if cmd.Example != "" {
			fmt.Fprintf(w, "\nExamples:\n\n%s", block(cmd.Example))
		}
	}
	for _, sub := range cmd.Commands() {
		section(w, sub)
	}
}

func block(text string) string { return "```\n" + strings.TrimRight(text, "\n") + "\n```\n" }
