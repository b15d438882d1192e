// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line of stentor-lab.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/stentor-net/stentor/lab/internal/node"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// exitError carries the exit code of a program that ran inside the lab.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that makes no sense: exit code 2.
type usageError struct{ error }

// Main runs the command line and returns the exit code: 0, 1 for an error, 2
// for wrong usage, and for exec that of the program.
func Main(args []string) int {
	// Of its own accord client-go tells of connections that we close.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	cmd := newRoot()
	cmd.SetArgs(args)
	err := cmd.Execute()
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(os.Stderr, "stentor-lab: %v\n", err)
		return 2
	}
	fmt.Fprintf(os.Stderr, "stentor-lab: %v\n", err)
	return 1
}

func newRoot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stentor-lab",
		Short: "A Kubernetes cluster on this machine, made of namespaces",
		Long: `A Kubernetes cluster on this machine, made of namespaces.

Every node has its own network, mounts, processes and cgroups, with a real
kubelet and containerd in it. Nothing of it touches the machine's own network.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.AddCommand(newUp(), newDemo(), newConformance(), newDown(), newList(), newStatus(), newExec(), newLoad(), newKubeconfig(), newNodeInit(), newExecChild())
	return cmd
}

// labFlags name a lab.
func labFlags(cmd *cobra.Command, o *plan.Options) {
	cmd.Flags().StringVar(&o.Name, "name", "stentor", "name of the lab")
	cmd.Flags().StringVar(&o.StateRoot, "state-dir", plan.DefaultStateRoot, "folder for the labs' files")
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument %q", cmd.CommandPath(), args[0])}
	}
	return nil
}

// newNodeInit is what a node's pid 1 runs.
func newNodeInit() *cobra.Command {
	var stage string
	cmd := &cobra.Command{
		Use: "node-init DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if stage == "enter" {
				return node.Enter(args[0])
			}
			return node.Init(args[0])
		},
	}
	cmd.Flags().StringVar(&stage, "stage", "run", "enter or run")
	return cmd
}

// newExecChild is what exec runs inside the lab, on the way to the command.
func newExecChild() *cobra.Command {
	return &cobra.Command{
		Use: "exec-child -- COMMAND [ARG...]", Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			code, err := node.RunChild(args)
			fmt.Fprintf(os.Stderr, "stentor-lab: %v\n", err)
			return exitError(code)
		},
	}
}

// binDir is the folder of this executable, where the others are.
func binDir() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	self, err = filepath.EvalSymlinks(self)
	return filepath.Dir(self), err
}

// repoDir is the source tree that binDir belongs to, or "".
func repoDir(binDir string) string {
	for dir := binDir; dir != "/"; dir = filepath.Dir(dir) {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/stentor-net/stentor\n") {
			return dir
		}
	}
	return ""
}
