// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
	"github.com/stentor-net/stentor/lab/internal/fabric"
)

// folders are those of a node that are on the machine's disk: container
// storage cannot live on the overlay that is the node's root, and logs and
// configuration are of use from outside.
var folders = []string{
	"var/lib/containerd", "var/lib/kubelet", "var/lib/cni",
	"etc/cni", "etc/kubernetes", "etc/containerd", "opt/cni", "log",
}

// Start prepares the node's folder and starts its pid 1, whose process id it
// returns. The network namespace must be there. self is the stentor-lab
// executable.
func Start(s *Spec, self string) (pid int, err error) {
	for _, f := range append(folders, "etc/cni/net.d", "opt/cni/bin", "log/pods", "log/containers", "root") {
		if err := os.MkdirAll(filepath.Join(s.Dir, f), 0o755); err != nil {
			return 0, err
		}
	}
	if err := copyPlugins(s); err != nil {
		return 0, err
	}
	if err := writeConfig(s); err != nil {
		return 0, err
	}
	if err := s.write(); err != nil {
		return 0, err
	}
	if err := cgroup.Create(s.Cgroups, s.Cgroup); err != nil {
		return 0, err
	}
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(self, "node-init", "--stage=enter", s.Dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + insideBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := fabric.In(s.NetNS, cmd.Start); err != nil {
		return 0, fmt.Errorf("start %s: %w", s.Name, err)
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// copyPlugins copies, because a CNI installer may write over them.
func copyPlugins(s *Spec) error {
	for _, src := range s.CNIPlugin {
		if err := copyFile(src, filepath.Join(s.Dir, "opt/cni/bin", filepath.Base(src))); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
