// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// world is nodes of several kinds on one network, each with its pods.
type world struct {
	fabric *space
	spaces []*space
	nodes  int // on the fabric so far
	undo   []func()
}

func newWorld() (*world, error) {
	w := &world{}
	var err error
	if w.fabric, err = w.space("fabric"); err != nil {
		return nil, err
	}
	return w, w.fabric.run("ip link add br0 type bridge\nip link set br0 up")
}

func (w *world) close() {
	for i := len(w.undo) - 1; i >= 0; i-- {
		w.undo[i]()
	}
	for _, s := range w.spaces {
		s.close()
	}
}

func (w *world) space(name string) (*space, error) {
	s, err := newSpace(name)
	if err != nil {
		return nil, err
	}
	w.spaces = append(w.spaces, s)
	// Thousands of short connections: their ports come back after a second.
	return s, s.sysctl("net/ipv4/tcp_tw_reuse", "1")
}

// host is a node: a namespace with an address on the fabric.
type host struct {
	*space
	addr [2]netip.Addr // IPv4, IPv6
	n    int           // its number on the fabric
}

func (w *world) host(name string) (*host, error) {
	s, err := w.space(name)
	if err != nil {
		return nil, err
	}
	w.nodes++
	h := &host{space: s, n: w.nodes, addr: [2]netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("172.30.0.%d", w.nodes)), netip.MustParseAddr(fmt.Sprintf("fd30::%x", w.nodes))}}
	if err := wire(s, "eth0", w.fabric, fmt.Sprintf("u%d", h.n)); err != nil {
		return nil, err
	}
	if err := w.fabric.run(fmt.Sprintf("ip link set u%d master br0", h.n)); err != nil {
		return nil, err
	}
	if err := s.run(fmt.Sprintf("ip addr add %s/24 dev eth0\nip addr add %s/64 dev eth0 nodad", h.addr[0], h.addr[1])); err != nil {
		return nil, err
	}
	return h, s.sysctl("net/ipv4/ip_forward", "1")
}

// pair is two namespaces with a wire and nothing else: what a byte costs at least.
func (w *world) pair() (from, to *space, dst [2]netip.Addr, err error) {
	if from, err = w.space("raw1"); err != nil {
		return
	}
	if to, err = w.space("raw2"); err != nil {
		return
	}
	if err = wire(from, "eth0", to, "eth0"); err != nil {
		return
	}
	dst = [2]netip.Addr{netip.MustParseAddr("10.250.0.2"), netip.MustParseAddr("fd99::2")}
	for i, s := range []*space{from, to} {
		if err = s.run(fmt.Sprintf("ip link set eth0 mtu %d\nip addr add 10.250.0.%d/24 dev eth0\nip addr add fd99::%[2]d/64 dev eth0 nodad", podMTU, i+1)); err != nil {
			return
		}
	}
	return
}

// podMTU is the same for everybody, so that the tunnels change nothing else.
const podMTU = 1430

// plainPod is a pod of a node that routes in the kernel.
func (w *world) plainPod(h *host, name, addr string) (*space, error) {
	p, err := w.space(name)
	if err != nil {
		return nil, err
	}
	if err := wire(p, "eth0", h.space, name); err != nil {
		return nil, err
	}
	if err := h.run(fmt.Sprintf("ip link set %s address 02:00:00:00:00:fe\nip route add %s/32 dev %s", name, addr, name)); err != nil {
		return nil, err
	}
	return p, p.run(fmt.Sprintf(`ip link set eth0 mtu %d
ip addr add %s/32 dev eth0
ip route add 169.254.1.1 dev eth0
ip route add default via 169.254.1.1
ip neigh add 169.254.1.1 dev eth0 lladdr 02:00:00:00:00:fe nud permanent`, podMTU, addr))
}

// bridgePods are two pods of a node with a bridge, as the bridge plugin makes them.
func (w *world) bridgePods(h *host) (from, to *space, dst netip.Addr, err error) {
	if err = h.run("ip link add cni0 type bridge\nip link set cni0 up\nip addr add 10.60.0.1/24 dev cni0"); err != nil {
		return
	}
	list := [2]*space{}
	for i := range list {
		name := fmt.Sprintf("bridged%d", i+1)
		if list[i], err = w.space(name); err != nil {
			return
		}
		if err = wire(list[i], "eth0", h.space, name); err != nil {
			return
		}
		if err = h.run("ip link set " + name + " master cni0"); err != nil {
			return
		}
		if err = list[i].run(fmt.Sprintf("ip link set eth0 mtu %d\nip addr add 10.60.0.%d/24 dev eth0\nip route add default via 10.60.0.1", podMTU, i+2)); err != nil {
			return
		}
	}
	return list[0], list[1], netip.MustParseAddr("10.60.0.3"), nil
}

// vxlan is a tunnel of the kernel between two nodes, with routes to prefixes
// behind the other one.
func vxlan(a, b *host, behindA, behindB string) error {
	for _, x := range []struct {
		at, other *host
		prefix    string
	}{{a, b, behindB}, {b, a, behindA}} {
		if err := x.at.run(fmt.Sprintf(`ip link add vk type vxlan id 7 dstport 4789 remote %s local %s
ip addr add 10.77.0.%d/24 dev vk
ip link set vk up
ip route add %s via 10.77.0.%d`, x.other.addr[0], x.at.addr[0], x.at.n, x.prefix, x.other.n)); err != nil {
			return err
		}
	}
	return nil
}

// bpfDir is a folder for the maps of a node.
func (w *world) bpfDir(name string) string {
	return fmt.Sprintf("%s/%s", BPFRoot, name)
}

// removeStale removes cgroups of measurements whose process was killed.
func removeStale(root string) {
	dirs, _ := filepath.Glob(root + "/stentor-bench-*")
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(dir, root+"/stentor-bench-"), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			os.Remove(dir)
		}
	}
}

// cgroup makes a cgroup below the mounted version 2 hierarchy, for processes
// whose sockets are to be translated.
func (w *world) cgroup(ctx context.Context) (dir string, fd int, err error) {
	root, err := cgroupRoot()
	if err != nil {
		return "", 0, err
	}
	removeStale(root)
	dir = fmt.Sprintf("%s/stentor-bench-%d", root, os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", 0, fmt.Errorf("make cgroup: %w", err)
	}
	w.undo = append(w.undo, func() { os.Remove(dir) })
	fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		w.undo = append(w.undo, func() { unix.Close(fd) })
	}
	return dir, fd, err
}
