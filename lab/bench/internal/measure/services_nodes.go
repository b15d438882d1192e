// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

// Who carries services out.
const (
	byStentor  = "Stentor"
	byNftables = "kube-proxy nftables"
	byIptables = "kube-proxy iptables"
)

// stentorProxied is a node with the product's agent and two pods of its own.
func (w *world) stentorProxied(ctx context.Context, bin string) (*proxied, *agentNode, error) {
	n, err := w.agentNode(ctx, bin)
	if err != nil {
		return nil, nil, err
	}
	n.flags = []string{"--kube-proxy-replacement=true"}
	p := &proxied{name: byStentor, api: n.api, slot: 1, log: &n.log, stop: n.stop, pid: func() int { return n.agent.Process.Pid },
		start: func(ctx context.Context) error {
			_, err := n.start(ctx)
			return err
		}}
	if err := p.start(ctx); err != nil {
		return nil, nil, err
	}
	if _, err := n.attach([]podRef{n.pod("from", "bench"), n.pod("to", "bench")}); err != nil {
		return nil, nil, err
	}
	p.from, p.to = w.spaces[len(w.spaces)-2], w.spaces[len(w.spaces)-1]
	if p.server, err = p.to.address(); err != nil {
		return nil, nil, err
	}
	fd, err := unix.Open(n.cgroup, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	w.undo = append(w.undo, func() { unix.Close(fd) })
	p.client = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	return p, n, p.serve(w)
}

// address is the IPv4 address of a pod.
func (s *space) address() (a netip.Addr, err error) {
	err = s.do(func() error {
		out, err := exec.Command("ip", "-4", "-o", "addr", "show", "dev", "eth0").Output()
		if err != nil {
			return fmt.Errorf("addresses of %s: %w", s.name, err)
		}
		f := bytes.Fields(out)
		if len(f) < 4 {
			return fmt.Errorf("%s has no IPv4 address: %s", s.name, out)
		}
		p, err := netip.ParsePrefix(string(f[3]))
		a = p.Addr()
		return err
	})
	return a, err
}

// kubeProxied is a node that routes in the kernel to two pods, with kube-proxy.
func (w *world) kubeProxied(bin, name, mode string, slot int, api *k8stest.Server) (*proxied, error) {
	h, err := w.host(mode)
	if err != nil {
		return nil, err
	}
	p := &proxied{name: name, api: api, slot: slot}
	addr := func(i int) string { return fmt.Sprintf("10.71.%d.%d", slot, i) }
	if p.from, err = w.plainPod(h, fmt.Sprint("kf", slot), addr(2)); err != nil {
		return nil, err
	}
	if p.to, err = w.plainPod(h, fmt.Sprint("kt", slot), addr(3)); err != nil {
		return nil, err
	}
	p.server = netip.MustParseAddr(addr(3))
	url, err := w.serveAPI(h, api)
	if err != nil {
		return nil, err
	}
	config, err := proxyFiles(w, mode, url)
	if err != nil {
		return nil, err
	}
	api.Put("api/v1/nodes/"+mode, fmt.Sprintf(`{"metadata":{},"spec":{"podCIDRs":["10.71.%d.0/24"]},"status":{"addresses":[{"type":"InternalIP","address":%q}]}}`, slot, h.addr[0]))
	k := &kubeProxy{host: h, binary: filepath.Join(bin, "stentor-kube"), config: config}
	p.log = &k.log
	p.start, p.stop, p.pid = k.start, k.stop, func() int { return k.cmd.Process.Pid }
	w.undo = append(w.undo, k.stop)
	return p, p.serve(w)
}

// proxyFiles writes the configuration of a kube-proxy. Everything that has a
// default of its own keeps it, but conntrack's sizes, which only the machine's
// first network namespace may set, and the time of full synchronisations, which
// would fall into the measurements now and then.
func proxyFiles(w *world, mode, url string) (string, error) {
	dir, err := os.MkdirTemp("", "stentor-bench-")
	if err != nil {
		return "", err
	}
	w.undo = append(w.undo, func() { os.RemoveAll(dir) })
	access := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}]}`, url)
	config := fmt.Sprintf(`{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration","mode":%q,"hostnameOverride":%[1]q,"clusterCIDR":"10.71.0.0/16",
		"clientConnection":{"kubeconfig":%q,"contentType":"application/json","acceptContentTypes":"application/json","qps":1000,"burst":1000},
		"healthzBindAddress":"127.0.0.1:10256","metricsBindAddress":"127.0.0.1:10249",
		"conntrack":{"maxPerCore":0,"min":0,"tcpEstablishedTimeout":"0s","tcpCloseWaitTimeout":"0s"},
		"iptables":{"syncPeriod":"1h","minSyncPeriod":"1s"},"nftables":{"syncPeriod":"1h","minSyncPeriod":"1s"}}`, mode, dir+"/access")
	if err := os.WriteFile(dir+"/access", []byte(access), 0o600); err != nil {
		return "", err
	}
	return dir + "/config", os.WriteFile(dir+"/config", []byte(config), 0o600)
}

// kubeProxy is a process of Kubernetes' own.
type kubeProxy struct {
	*host
	binary, config string
	cmd            *exec.Cmd
	log            bytes.Buffer
	ended          chan error
}

func (k *kubeProxy) start(context.Context) error {
	k.cmd = exec.Command(k.binary, "kube-proxy", "--config="+k.config, "--v=1")
	k.log.Reset()
	k.cmd.Stdout, k.cmd.Stderr = &k.log, &k.log
	k.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	began, cmd := make(chan error, 1), k.cmd
	k.ended = make(chan error, 1)
	// The thread that starts it must live as long as it does (Pdeathsig).
	go func(ended chan error) {
		ended <- k.do(func() error {
			err := cmd.Start()
			began <- err
			if err != nil {
				return err
			}
			return cmd.Wait()
		})
	}(k.ended)
	return <-began
}

// stop ends it. Its rules stay, as those of a node whose kube-proxy is away.
func (k *kubeProxy) stop() {
	if k.cmd == nil || k.cmd.Process == nil {
		return
	}
	_ = k.cmd.Process.Signal(unix.SIGTERM)
	<-k.ended
	k.cmd = nil
}
