// SPDX-License-Identifier: Apache-2.0

// Package lab hands over to the program that runs a cluster on one machine.
package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const program = "stentor-lab"

// NewCmd makes `lab`, which has no flags of its own.
func NewCmd() *cobra.Command {
	return &cobra.Command{
		Use: "lab COMMAND ...", DisableFlagParsing: true,
		Short: "Run a whole cluster on this machine",
		Long: `Run a whole cluster on this machine: a real Kubernetes with real containers, each
node in namespaces of its own. All arguments go to stentor-lab, a program beside
this one that is built with make lab.`,
		Example: `  stentor lab up
  stentor lab status
  stentor lab down`,
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := find()
			if err != nil {
				return err
			}
			if err := unix.Exec(path, append([]string{path}, args...), os.Environ()); err != nil {
				return fmt.Errorf("run %s: %w", path, err)
			}
			return nil
		},
	}
}

// find looks beside this program, then in PATH.
func find() (string, error) {
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		path := filepath.Join(filepath.Dir(self), program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", errors.New(program + " is not here: build it with `make lab` in the source tree, " +
			"which puts it into bin/ beside stentor, or add its place to PATH")
	}
	return path, nil
}
