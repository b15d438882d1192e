// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	ExitOK    = 0
	ExitError = 1 // it did not work, or what was asked about is not well
	ExitUsage = 2 // the command line is wrong
)

// ErrSilent ends a command with ExitError after it has said itself what is wrong.
var ErrSilent = errors.New("")

// UsageError is a wrong command line.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{Err: fmt.Errorf(format, args...)} }

// ExitCode of a command that ended with err.
func ExitCode(err error) int {
	var usage *UsageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		return ExitUsage
	}
	return ExitError
}

// NoArgs refuses arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%s takes no argument, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// OneArg wants exactly the named argument.
func OneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return Usagef("%s needs %s", cmd.CommandPath(), name)
		case 1:
			return nil
		}
		return Usagef("%s takes one argument, got %d", cmd.CommandPath(), len(args))
	}
}

// Group is a command that only holds others. Without one of them it is a usage
// error that names them.
func Group(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(verbs...)
	NeedsVerb(cmd)
	return cmd
}

// NeedsVerb does the same for a command that has its verbs already.
func NeedsVerb(cmd *cobra.Command) {
	var names []string
	for _, v := range cmd.Commands() {
		names = append(names, v.Name())
	}
	slices.Sort(names)
	cmd.Args = func(*cobra.Command, []string) error { return nil }
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return Usagef("%s needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))
		}
		return Usagef("%s has no %q: it has %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
}
