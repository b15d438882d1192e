// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
)

// Enter is the first stage of a node's pid 1. It moves itself into the node's
// cgroups while it still sees the machine's, makes that place the root of a
// cgroup namespace and executes the second stage. It returns only on error.
func Enter(dir string) error {
	s, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	if err := cgroup.Enter(s.Cgroups, s.Cgroup, 0); err != nil {
		return err
	}
	leaf := cgroup.Leaf(s.Cgroups, s.Cgroup)
	// Namespaces belong to threads: the one that unshares is the one that
	// executes, and all others end there.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroup namespace: %w", err)
	}
	if leaf != s.Cgroup {
		if err := os.Mkdir(filepath.Join(s.Cgroups[0].Mount, leaf), 0o755); err != nil {
			return err
		}
		if err := cgroup.Enter(s.Cgroups, leaf, 0); err != nil {
			return err
		}
	}
	self := "/proc/self/exe"
	return syscall.Exec(self, []string{"stentor-lab", "node-init", "--stage=run", dir}, os.Environ())
}

// Init is the second stage: it builds the node's file system, then runs and
// restarts the node's daemons. It never returns unless the node cannot start.
func Init(dir string) error {
	s, err := ReadSpec(dir)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", s.Name)
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := buildRoot(s); err != nil {
		return err
	}
	log.Info("file system built")
	ctx := context.Background()
	sup := newSupervisor(log)
	go sup.reap()
	sup.keep("containerd", "containerd", "--config", "/etc/containerd/config.toml")
	if err := waitSocket(ctx, "unix", criSocket, 30*time.Second); err != nil {
		return err
	}
	log.Info("containerd answers")
	go importImages(s, sup, log)
	kube := insideBin + "/stentor-kube"
	// A daemon that finds no API server waits ever longer to try again, up to
	// half a minute. The kubelet needs it to answer; kube-proxy needs the roles
	// that it makes by itself before it is ready.
	if s.KubeProxy != "none" {
		go func() {
			if err := waitReady(ctx, s.API, 2*time.Minute); err != nil {
				log.Warn("kube-proxy starts without an API server", "error", err)
			}
			sup.keep("kube-proxy", kube, "kube-proxy", "--config=/etc/kubernetes/kube-proxy.yaml", "--v=2")
		}()
	}
	if err := waitSocket(ctx, "tcp", s.API, 2*time.Minute); err != nil {
		return err
	}
	sup.keep("kubelet", kube, "kubelet",
		"--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
		"--hostname-override="+s.Name, "--node-ip="+joinAddrs(s.Addrs), "--root-dir=/var/lib/kubelet", "--v=2")
	select {} // a pid 1 stays
}

func importImages(s *Spec, sup *supervisor, log *slog.Logger) {
	result := ""
	for _, name := range s.Images {
		started := time.Now()
		code, err := sup.run("import", "ctr", "-n", "k8s.io", "images", "import", filepath.Join(insideImages, name))
		if err != nil || code != 0 {
			result += fmt.Sprintf("%s: exit status %d (%v), see import.log; ", name, code, err)
			continue
		}
		log.Info("image imported", "archive", name, "took", time.Since(started).Round(time.Millisecond))
	}
	tmp := "/var/log/.images-imported"
	if err := os.WriteFile(tmp, []byte(strings.TrimSuffix(result, "; ")), 0o644); err != nil {
		log.Warn("image import cannot be reported", "error", err)
		return
	}
	if err := os.Rename(tmp, "/var/log/images-imported"); err != nil {
		log.Warn("image import cannot be reported", "error", err)
	}
}

// waitSocket waits until somebody listens.
func waitSocket(ctx context.Context, network, addr string, timeout time.Duration) error {
	return retry(ctx, addr, timeout, func() error {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// waitReady waits until the API server at host:port is ready.
func waitReady(ctx context.Context, addr string, timeout time.Duration) error {
	ca, err := os.ReadFile("/etc/kubernetes/ca.crt")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}
	defer client.CloseIdleConnections()
	return retry(ctx, addr, timeout, func() error {
		r, err := client.Get("https://" + addr + "/readyz")
		if err != nil {
			return err
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	})
}

func retry(ctx context.Context, what string, timeout time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait %s for %s: %w", timeout, what, err)
		case <-tick.C:
		}
	}
}
