// SPDX-License-Identifier: Apache-2.0

// Package install prepares a node for the agent.
package install

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/file"
)

const plugin = "stentor-cni"

// Options of `install-cni`.
type Options struct {
	command.Streams

	Source string // program to copy; default: stentor-cni beside this program
	BinDir string
	BPFFS  string // "" mounts nothing
}

// NewCmd makes `install-cni`.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	o := &Options{Streams: f.Streams}
	cmd := &cobra.Command{
		Use: "install-cni", Args: command.NoArgs,
		Short: "Prepare a node: copy the CNI plugin, mount the BPF file system",
		Long: `Prepare a node, as the init step of the agent's pod does. The plugin is replaced
atomically, since a runtime may run it at any time, and only if it differs. A
directory that is no BPF file system yet gets one mounted. Both may be repeated.`,
		Example: "  stentor install-cni --bin-dir /host/opt/cni/bin --bpffs /sys/fs/bpf",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return run(o)
		},
	}
	cmd.Flags().StringVar(&o.BinDir, "bin-dir", "/opt/cni/bin", "directory of CNI plugins")
	cmd.Flags().StringVar(&o.BPFFS, "bpffs", "/sys/fs/bpf", "where the BPF file system has to be; empty: leave it")
	cmd.Flags().StringVar(&o.Source, "source", "", "plugin to copy (default: "+plugin+" beside this program)")
	return cmd
}

func run(o *Options) error {
	if o.Source == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		o.Source = filepath.Join(filepath.Dir(self), plugin)
	}
	target := filepath.Join(o.BinDir, plugin)
	changed, err := replace(o.Source, target)
	if err != nil {
		return err
	}
	if changed {
		fmt.Fprintln(o.Err, "installed", target)
	} else {
		fmt.Fprintln(o.Err, target, "is current")
	}
	if o.BPFFS == "" {
		return nil
	}
	mounted, err := mountBPF(o.BPFFS)
	if err != nil {
		return err
	}
	if mounted {
		fmt.Fprintln(o.Err, "mounted a BPF file system at", o.BPFFS)
	}
	return nil
}

// replace copies source over target by a rename, unless the content is the same.
func replace(source, target string) (changed bool, err error) {
	content, err := os.ReadFile(source)
	if err != nil {
		return false, fmt.Errorf("read the plugin: %w", err)
	}
	if have, err := os.ReadFile(target); err == nil && bytes.Equal(have, content) {
		if info, err := os.Stat(target); err == nil && info.Mode().Perm() == 0o755 {
			return false, nil
		}
	}
	if err := file.WriteDurable(target, content, 0o755); err != nil {
		return false, fmt.Errorf("install the plugin: %w", err)
	}
	return true, nil
}

// mountBPF mounts a BPF file system at dir unless there is one.
func mountBPF(dir string) (mounted bool, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return false, nil
	}
	if err := unix.Mount("bpffs", dir, "bpf", 0, "mode=0700"); err != nil {
		return false, fmt.Errorf("mount a BPF file system at %s: %w", dir, err)
	}
	return true, nil
}
