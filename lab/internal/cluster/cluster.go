// SPDX-License-Identifier: Apache-2.0

// Package cluster brings a whole lab up, looks after it and takes it down.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
	"github.com/stentor-net/stentor/lab/internal/fabric"
	"github.com/stentor-net/stentor/lab/internal/image"
	"github.com/stentor-net/stentor/lab/internal/kubeapi"
	"github.com/stentor-net/stentor/lab/internal/node"
	"github.com/stentor-net/stentor/lab/internal/pki"
	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

// Lab is a lab on this machine.
type Lab struct {
	Plan  *plan.Plan
	state *state
}

// UpOptions say how to bring a lab up.
type UpOptions struct {
	Options  plan.Options
	BinDir   string        // folder with stentor-lab, stentor-kube and what goes into images
	CacheDir string        // where built images are kept
	ChartDir string        // Helm chart of the product
	Timeout  time.Duration // for everything after the images are built; default 2 minutes
	Out      *progress.Printer
}

func (o UpOptions) validate() error {
	if o.BinDir == "" || o.CacheDir == "" || o.Out == nil {
		return errors.New("up: folder of binaries, cache and printer are needed")
	}
	return nil
}

// builder is what up knows while it works.
type builder struct {
	*Lab
	UpOptions
	cgroups []cgroup.Hierarchy
	kube    *kubeapi.Client
}

// Up brings the lab up, or finishes and refreshes one that is up with the
// same options. What a crash left behind is cleared first.
func Up(ctx context.Context, o UpOptions) (*Lab, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	// The lab outlives this process: a file, or a lock, of the caller's must not
	// stay open with it.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("keep open files from the lab: %w", err)
	}
	p, err := plan.New(o.Options)
	if err != nil {
		return nil, err
	}
	if err := checkMachine(p, o.BinDir, o.ChartDir); err != nil {
		return nil, err
	}
	hs, err := cgroup.Hierarchies()
	if err != nil {
		return nil, err
	}
	b := &builder{Lab: &Lab{Plan: p}, UpOptions: o, cgroups: hs}
	if err := b.checkChart(ctx); err != nil {
		return nil, err
	}
	images, err := b.buildImages(p)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(p)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	up, err := b.adopt(ctx, images)
	if err != nil {
		return nil, err
	}
	if !up {
		if err := closeOnExec(); err != nil {
			return nil, err
		}
		if err := b.create(images); err != nil {
			return nil, err
		}
	}
	if err := b.finish(ctx); err != nil {
		return nil, err
	}
	return b.Lab, b.state.write(p)
}

func (b *builder) phase(name string) {
	b.state.Times = append(b.state.Times, phase{Name: name, Seconds: b.Out.Elapsed().Round(10 * time.Millisecond).Seconds()})
	b.Out.Step("%s", name)
}

func (b *builder) buildImages(p *plan.Plan) ([]string, error) {
	ib := image.Builder{BinDir: b.BinDir, Cache: b.CacheDir, Note: func(s string) { b.Out.Note("%s", s) }}
	var files []string
	for _, name := range imagesFor(p) {
		f, err := ib.Build(name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// imagesFor names the images of a lab in the order in which nodes need them.
func imagesFor(p *plan.Plan) []string {
	if p.CNI == plan.CNIStentor {
		return []string{image.Pause, image.Stentor, image.CoreDNS, image.App}
	}
	return []string{image.Pause, image.CoreDNS, image.App}
}

// adopt takes over a lab that is up. One that is up with other options is an
// error; one that is partly there is removed.
func (b *builder) adopt(ctx context.Context, images []string) (bool, error) {
	s, err := readState(b.Plan)
	if err == nil && s.healthy(b.Plan) {
		if !sameLab(s.Options, b.Plan.Options) {
			return false, fmt.Errorf("lab %q is up with other options (%s); take it down first: stentor lab down --name %s",
				b.Plan.Name, describe(s.Options), b.Plan.Name)
		}
		b.state = s
		b.state.Options, b.state.Times = b.Plan.Options, nil
		b.Out.Note("lab %q is up already", b.Plan.Name)
		return true, b.refreshImages(ctx, images)
	}
	if b.leftovers() {
		b.Out.Note("clearing what is left of an earlier lab %q", b.Plan.Name)
	}
	return false, b.clear()
}

// sameLab says whether a running lab can serve for wanted: overrides of the
// chart may change, the machines may not.
func sameLab(running, wanted plan.Options) bool {
	running.Set, running.Values, wanted.Set, wanted.Values = nil, nil, nil, nil
	running.RoutingMode, wanted.RoutingMode = "", ""
	return reflect.DeepEqual(running, wanted)
}

func describe(o plan.Options) string {
	routes := ""
	if o.PodRoutes {
		routes = " --pod-routes"
	}
	return fmt.Sprintf("--nodes %d --ip-family %s --cni %s --kube-proxy %s%s", o.Nodes, o.IPFamily, o.CNI, o.KubeProxy, routes)
}

func (s *state) healthy(p *plan.Plan) bool {
	if !s.ControlPlane.alive() || !fabric.Exists(p.FabricNS) || !fabric.Exists(p.OutsideNS) || len(s.Nodes) == 0 {
		return false
	}
	for _, n := range s.Nodes {
		if !n.alive() {
			return false
		}
	}
	return true
}

// refreshImages imports archives that changed since they were last imported.
func (b *builder) refreshImages(ctx context.Context, images []string) error {
	have := map[string]bool{}
	for _, f := range b.state.Images {
		have[f] = true
	}
	for _, f := range images {
		if have[f] {
			continue
		}
		if err := b.loadArchive(ctx, filepath.Join(b.CacheDir, f)); err != nil {
			return err
		}
		b.Out.Step("image %s imported", f)
	}
	b.state.Images = images
	return nil
}

// create makes everything that does not need the API server to answer.
func (b *builder) create(images []string) error {
	p := b.Plan
	b.state = &state{Options: p.Options, Created: time.Now().UTC(), Nodes: map[string]process{}, Images: images}
	var names []string
	for _, n := range p.Nodes {
		names = append(names, n.Name)
	}
	ips := append([]string{}, strings.Split(plan.JoinAddrs(p.Fabric), ",")...)
	ca, err := pki.Write(pki.Options{Dir: p.Path("pki"), Server: p.APIServer(), Nodes: names, IPs: certIPs(p)})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	b.state.HostPort = l.Addr().(*net.TCPAddr).Port
	server := fmt.Sprintf("https://127.0.0.1:%d", b.state.HostPort)
	if err := ca.WriteAdminKubeconfig(p.Kubeconfig(), p.Cgroup, server); err != nil {
		return err
	}
	// The same rights from inside the lab's namespaces, the outside's apart.
	if err := ca.WriteAdminKubeconfig(p.Path("kubeconfig.inside"), p.Cgroup, p.APIServer()); err != nil {
		return err
	}
	if err := fabric.Up(p); err != nil {
		return err
	}
	if err := b.startControlPlane(l.(*net.TCPListener)); err != nil {
		return err
	}
	hosts := map[string]string{"fabric": strings.Join(ips, ","), "outside": plan.JoinAddrs(p.Outside)}
	for _, n := range p.Nodes {
		hosts[n.Name] = plan.JoinAddrs(n.Addrs)
	}
	var g errgroup.Group
	pids := make([]int, len(p.Nodes))
	for i, n := range p.Nodes {
		g.Go(func() (err error) {
			pids[i], err = node.Start(b.nodeSpec(n, images, hosts), filepath.Join(b.BinDir, "stentor-lab"))
			return err
		})
	}
	err = g.Wait()
	for i, n := range p.Nodes {
		b.state.Nodes[n.Name] = newProcess(pids[i])
	}
	b.phase("namespaces, control plane and nodes started")
	return errors.Join(err, b.state.write(p))
}

func (b *builder) nodeSpec(n plan.Node, images []string, hosts map[string]string) *node.Spec {
	p := b.Plan
	s := &node.Spec{
		Lab: p.Name, Name: n.Name, NetNS: n.NetNS, Addrs: n.Addrs,
		PodCIDRs: p.PodCIDRs, DNS: p.DNS, KubeProxy: p.KubeProxy,
		API: netip.AddrPortFrom(p.APIHost(), plan.APIPort).String(),
		Dir: p.Path("nodes", n.Name), PKIDir: p.Path("pki"), BinDir: b.BinDir, ImageDir: b.CacheDir,
		Images: images, Hosts: hosts, Taints: taints(p),
		Cgroups: b.cgroups, Cgroup: p.Cgroup + "/" + n.Name,
	}
	for _, name := range cniPlugins(p) {
		s.CNIPlugin = append(s.CNIPlugin, filepath.Join(pluginDir, name))
	}
	return s
}

func (b *builder) startControlPlane(l *net.TCPListener) error {
	p := b.Plan
	cg := p.Cgroup + "/control-plane"
	if err := cgroup.Create(b.cgroups, cg); err != nil {
		return err
	}
	dir := p.Path("control-plane")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	bind := "0.0.0.0"
	if p.IPFamily != plan.IPv4 {
		bind = "::"
	}
	cmd := exec.Command(filepath.Join(b.BinDir, "stentor-kube"), "control-plane",
		"-pki="+p.Path("pki"), "-data="+filepath.Join(dir, "etcd"),
		"-advertise="+p.APIHost().String(), "-bind="+bind, fmt.Sprintf("-port=%d", plan.APIPort),
		"-service-cidr="+plan.Join(p.ServiceCIDRs), "-pod-cidr="+plan.Join(p.PodCIDRs), "-forward-fd=3")
	cmd.Dir = dir // etcd's socket is made here
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID}
	if err := fabric.In(p.FabricNS, cmd.Start); err != nil {
		return fmt.Errorf("start control plane: %w", err)
	}
	b.state.ControlPlane = newProcess(cmd.Process.Pid)
	if err := cgroup.Enter(b.cgroups, cg, cmd.Process.Pid); err != nil {
		return err
	}
	return cmd.Process.Release()
}
