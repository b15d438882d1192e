// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line: one folder for each noun, one file for each verb.
//
// See package command for how a command is written.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stentor-net/stentor/internal/cli/api"
	"github.com/stentor-net/stentor/internal/cli/bpf"
	"github.com/stentor-net/stentor/internal/cli/bpfmap"
	"github.com/stentor-net/stentor/internal/cli/cleanup"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/cli/config"
	"github.com/stentor-net/stentor/internal/cli/connectivity"
	"github.com/stentor-net/stentor/internal/cli/db"
	"github.com/stentor-net/stentor/internal/cli/endpoint"
	"github.com/stentor-net/stentor/internal/cli/identity"
	"github.com/stentor-net/stentor/internal/cli/install"
	"github.com/stentor-net/stentor/internal/cli/ip"
	"github.com/stentor-net/stentor/internal/cli/lab"
	"github.com/stentor-net/stentor/internal/cli/lrp"
	"github.com/stentor-net/stentor/internal/cli/metric"
	"github.com/stentor-net/stentor/internal/cli/monitor"
	"github.com/stentor-net/stentor/internal/cli/node"
	"github.com/stentor-net/stentor/internal/cli/observe"
	"github.com/stentor-net/stentor/internal/cli/policy"
	"github.com/stentor-net/stentor/internal/cli/role"
	"github.com/stentor-net/stentor/internal/cli/service"
	"github.com/stentor-net/stentor/internal/cli/status"
)

// Version of the program; set by the build.
var Version = "dev"

// Main runs the command line args, without the program's name, and returns the
// exit code. Name is what the program was called by.
func Main(name string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := &command.Factory{
		Program: program(name),
		Version: Version,
		Streams: command.Streams{
			In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
			Color:  os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(os.Stdout.Fd())),
			ErrTTY: term.IsTerminal(int(os.Stderr.Fd())),
		},
	}
	root := NewRoot(f)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil {
		explain(f.Err, cmd, err)
	}
	return command.ExitCode(err)
}

// program is the name by which the CLI speaks of itself: those who know its
// commands by another name may link it under that, as the image does.
func program(name string) string {
	switch base := filepath.Base(name); base {
	case "cilium", "cilium-dbg", "hubble":
		return base
	}
	return own
}

// explain says what went wrong and, where it helps, what to do.
func explain(w io.Writer, cmd *cobra.Command, err error) {
	if errors.Is(err, command.ErrSilent) {
		return
	}
	fmt.Fprintln(w, "error:", strings.TrimSpace(err.Error()))
	var usage *command.UsageError
	var away *client.AwayError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(w, "hint: see `%s --help`\n", cmd.CommandPath())
	case errors.As(err, &away) && errors.Is(err, os.ErrPermission):
		fmt.Fprintln(w, "hint: the socket is root's: run this as root")
	case errors.As(err, &away):
		fmt.Fprintln(w, "hint: does the agent run on this node? From elsewhere give --kubeconfig FILE, or --node NAME")
	}
}

// groups of commands in the help.
var groups = []*cobra.Group{
	{ID: "look", Title: "Look:"},
	{ID: "datapath", Title: "Look into the datapath:"},
	{ID: "change", Title: "Change:"},
	{ID: "run", Title: "Run:"},
}

// NewRoot makes the root command with all others below it.
func NewRoot(f *command.Factory) *cobra.Command {
	t := &target{}
	t.fill(f)
	root := &cobra.Command{
		Use:   f.Program,
		Short: "Network, security and observability for Kubernetes from eBPF",
		Long: `Stentor gives a Kubernetes cluster its network, its security and its eyes.

On a node the commands speak with the agent's socket. From elsewhere they go
through the API server of the kubeconfig, to the agent of --node or to all.`,
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
		PersistentPreRunE: func(*cobra.Command, []string) error { return t.validate() },
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			text := fmt.Sprintf("no command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				text += ": did you mean " + strings.Join(near, " or ") + "?"
			}
			return command.Usagef("%s", text)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(f.In)
	root.SetOut(f.Out)
	root.SetErr(f.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &command.UsageError{Err: err} })
	t.addTo(root.PersistentFlags())
	_ = root.RegisterFlagCompletionFunc("node", command.CompleteFlag(t.nodes))
	root.AddGroup(groups...)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
		}
		root.AddCommand(cmds...)
	}
	add("look", status.NewCmd(f, nil), endpoint.NewCmd(f), identity.NewCmd(f), ip.NewCmd(f), node.NewCmd(f),
		policy.NewCmd(f), service.NewCmd(f), lrp.NewCmd(f), monitor.NewCmd(f, nil), observe.NewCmd(f, nil), metric.NewCmd(f), connectivity.NewCmd(f))
	add("datapath", bpf.NewCmd(f), bpfmap.NewCmd(f), db.NewCmd(f), api.NewCmd(f, nil))
	add("change", config.NewCmd(f), install.NewCmd(f, nil), cleanup.NewCmd(f, nil))
	add("run", role.NewCmdAgent(f, nil), role.NewCmdProxy(f, nil), role.NewCmdOperator(f, nil), lab.NewCmd(), newCmdVersion(f))
	root.AddCommand(api.NewCmdDial(f), newCmdReference(root))
	root.SetHelpCommandGroupID("run")
	root.SetCompletionCommandGroupID("run")
	completion(root)
	usageErrors(root)
	speakAs(f.Program, root)
	return root
}

// speakAs writes the name that was typed into what the help says.
func speakAs(program string, cmd *cobra.Command) {
	if program == own {
		return
	}
	for _, text := range []*string{&cmd.Example, &cmd.Long} {
		*text = ownName.ReplaceAllString(*text, "${1}"+program+" ")
	}
	for _, sub := range cmd.Commands() {
		speakAs(program, sub)
	}
}

// own is the name of the program, ownName a call of it in a text.
const own = "stentor"

var ownName = regexp.MustCompile("(?m)(^  |`)" + own + " ")

// completion adds cobra's command now, so that it follows our rules too.
func completion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		command.NeedsVerb(c)
		for _, shell := range c.Commands() {
			shell.Example = "  " + shell.CommandPath()
		}
	}
}

// usageErrors makes what cobra itself finds wrong with arguments a usage error.
func usageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			var usage *command.UsageError
			if err != nil && !errors.As(err, &usage) {
				err = &command.UsageError{Err: err}
			}
			return err
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
	}
}

func newCmdVersion(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use: "version", Args: command.NoArgs,
		Short: "Print the version of this program",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(f.Out, "stentor %s %s %s/%s\n", f.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
