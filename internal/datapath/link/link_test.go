// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/datapath/link"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
)

var (
	router4 = netip.MustParseAddr("10.0.1.1")
	router6 = netip.MustParseAddr("fd00:1::1")
	pod4    = netip.MustParseAddr("10.0.1.20")
	pod6    = netip.MustParseAddr("fd00:1::20")
)

// testNode is a namespace with an uplink whose other end is in the namespace `other`.
type testNode struct {
	*nstest.Namespace
	other *nstest.Namespace
	opt   link.Options
	*link.Node
}

func newNode(t *testing.T, change func(*link.Options)) *testNode {
	nstest.RequireRoot(t)
	n := &testNode{Namespace: nstest.New(t, "node"), other: nstest.New(t, "other")}
	n.Namespace.Run(t, fmt.Sprintf(`ip link add up0 type veth peer name up1 netns %s
		ip link set up0 up
		ip addr add 172.30.0.1/24 dev up0
		ip addr add fd30::1/64 dev up0 nodad`, n.other.Name))
	n.other.Run(t, "ip link set up1 up\nip addr add 172.30.0.2/24 dev up1")
	n.opt = link.Options{IPv4: true, IPv6: true, Tunnel: true, Router: []netip.Addr{router4, router6},
		NodeIPs:  []netip.Addr{netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("fd30::1")},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("fd00:1::/64")}}
	if change != nil {
		change(&n.opt)
	}
	n.ensure(t)
	return n
}

// ensure is what every start does.
func (n *testNode) ensure(t *testing.T) (d link.Devices) {
	t.Helper()
	if n.Node != nil {
		n.Node.Close()
	}
	var err error
	n.Namespace.Do(func() {
		if n.Node, err = link.New(n.opt); err == nil {
			d, err = n.Node.Ensure()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (n *testNode) add(t *testing.T, p *link.Pod) {
	t.Helper()
	var err error
	n.Namespace.Do(func() { err = n.Node.AddPod(p, func(int) error { return nil }) })
	if err != nil {
		t.Fatal(err)
	}
}

// holds fails unless the output of a command contains every one of the words.
func holds(t *testing.T, ns *nstest.Namespace, command string, words ...string) {
	t.Helper()
	out, err := ns.Output(command)
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%s: no %q in\n%s", command, w, out)
		}
	}
}

func TestEnsureMakesDevicesAndASecondTimeChangesNothing(t *testing.T) {
	n := newNode(t, nil)
	first := n.Node.Devices()
	if first.MTU != 1450 || len(first.Uplinks) != 1 || first.Uplinks[0].Name != "up0" {
		t.Errorf("devices %+v: want MTU 1450 and the uplink up0", first)
	}
	holds(t, n.Namespace, "ip -d link show "+link.OverlayName, "vxlan external", "dstport 8472", "NOARP", "mtu 1450")
	holds(t, n.Namespace, "ip addr show "+link.HostName, "10.0.1.1/32", "fd00:1::1/128")
	holds(t, n.Namespace, "ip route", "unreachable 10.0.1.0/24")
	holds(t, n.Namespace, "ip -6 route", "unreachable fd00:1::/64")
	holds(t, n.Namespace, "sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding", "1\n1")
	if second := n.ensure(t); fmt.Sprint(second) != fmt.Sprint(first) {
		t.Errorf("devices changed from %+v to %+v", first, second)
	}
}

func TestAReversePathFilterForAllDevicesIsMovedToTheOthers(t *testing.T) {
	n := newNode(t, nil)
	n.Namespace.Run(t, "sysctl -qw net.ipv4.conf.all.rp_filter=1\nsysctl -qw net.ipv4.conf.up0.rp_filter=0")
	n.ensure(t)
	holds(t, n.Namespace, "sysctl -n net.ipv4.conf.all.rp_filter net.ipv4.conf.up0.rp_filter net.ipv4.conf."+link.HostName+".rp_filter", "0\n1\n0")
}

func TestPortsAreReservedBesideThoseThatAre(t *testing.T) {
	const get = "sysctl -n net.ipv4.ip_local_reserved_ports"
	n := newNode(t, nil)
	local := func(text string) {
		t.Helper()
		var err error
		n.Namespace.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(text), 0o644) })
		if err != nil {
			t.Fatal(err)
		}
	}
	reserved := func(want string) {
		t.Helper()
		n.ensure(t)
		if out, err := n.Namespace.Output(get); err != nil || strings.TrimSpace(out) != want {
			t.Errorf("reserved ports %q, %v; want %q", strings.TrimSpace(out), err, want)
		}
	}
	n.Namespace.Run(t, "sysctl -qw net.ipv4.ip_local_reserved_ports=8080,9148-9150")
	reserved("8080,9148-9150")
	n.opt.Reserved = [2]uint16{30000, 32767}
	local("33000 60999") // of which none is a NodePort
	reserved("8080,9148-9150")
	local("32768 60999")
	reserved("8080,9148-9150")
	local("32000 60999")
	reserved("8080,9148-9150,30000-32767")
	reserved("8080,9148-9150,30000-32767")
	n.opt.Reserved = [2]uint16{30000, 33000}
	reserved("8080,9148-9150,30000-33000")
}

func TestWithoutTunnelsThereIsNoOverlayAndTheFullMTU(t *testing.T) {
	n := newNode(t, func(o *link.Options) { o.Tunnel = false })
	if n.Node.Devices().MTU != 1500 {
		t.Errorf("MTU %d, want the uplink's", n.Node.Devices().MTU)
	}
	if out, err := n.Namespace.Output("ip link show " + link.OverlayName); err == nil {
		t.Errorf("overlay exists: %s", out)
	}
}

func TestAMissingUplinkIsSaidClearly(t *testing.T) {
	n := newNode(t, nil)
	n.opt.NodeIPs, n.opt.Uplinks = []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	var err error
	n.Namespace.Do(func() {
		var l *link.Node
		if l, err = link.New(n.opt); err == nil {
			defer l.Close()
			_, err = l.Ensure()
		}
	})
	if err == nil || !strings.Contains(err.Error(), "devices") {
		t.Errorf("error %v does not name the option", err)
	}
}

func TestAPodGetsAddressesRoutesAndNeighboursAtOnce(t *testing.T) {
	n, ns := newNode(t, nil), nstest.New(t, "pod")
	p := &link.Pod{NetNS: ns.Path, IPv4: pod4, IPv6: pod6}
	n.add(t, p)
	if p.IfIndex == 0 || p.MAC == p.NodeMAC || p.MAC == [6]byte{} || len(p.HostIfName) > 15 || !strings.HasPrefix(p.HostIfName, link.PodPrefix) {
		t.Errorf("link %+v", p)
	}
	mac := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", p.NodeMAC[0], p.NodeMAC[1], p.NodeMAC[2], p.NodeMAC[3], p.NodeMAC[4], p.NodeMAC[5])
	holds(t, ns, "ip addr show eth0", "10.0.1.20/32", "fd00:1::20/128", "mtu 1450")
	holds(t, ns, "ip route", "default via 10.0.1.1 dev eth0", "10.0.1.1 dev eth0 scope link")
	holds(t, ns, "ip -6 route", "default via fd00:1::1 dev eth0", "fd00:1::1 dev eth0")
	holds(t, ns, "ip neigh", "10.0.1.1 dev eth0 lladdr "+mac+" PERMANENT", "fd00:1::1 dev eth0 lladdr "+mac)
	holds(t, ns, "sysctl -n net.ipv6.conf.eth0.accept_ra", "0")
	holds(t, n.Namespace, "ip route", "10.0.1.20 dev "+p.HostIfName+" proto 83 scope link src 172.30.0.1")
	holds(t, n.Namespace, "ip -6 route get fd00:1::20", "src fd30::1")
	if out, _ := ns.Output("ip -6 addr show tentative"); strings.Contains(out, "inet6") {
		t.Errorf("an address is tentative:\n%s", out)
	}
}

func TestAddingAPodAgainKeepsItsInterface(t *testing.T) {
	n, ns := newNode(t, nil), nstest.New(t, "pod")
	p := link.Pod{NetNS: ns.Path, IPv4: pod4, IPv6: pod6}
	n.add(t, &p)
	again := link.Pod{NetNS: ns.Path, IPv4: pod4, IPv6: pod6}
	n.add(t, &again)
	if again != p {
		t.Errorf("%+v became %+v", p, again)
	}
	ns.Run(t, "ip link del eth0")
	n.add(t, &again)
	if again.IfIndex == p.IfIndex {
		t.Error("the interface was gone and is said to be the same")
	}
}

func TestAPodsOwnInterfaceIsNotTaken(t *testing.T) {
	n, ns := newNode(t, nil), nstest.New(t, "pod")
	ns.Run(t, "ip link add eth0 type bridge")
	var err error
	n.Namespace.Do(func() { err = n.Node.AddPod(&link.Pod{NetNS: ns.Path, IPv4: pod4}, func(int) error { return nil }) })
	if err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("error %v", err)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	n, ns := newNode(t, nil), nstest.New(t, "pod")
	p := link.Pod{NetNS: ns.Path, IPv4: pod4, IPv6: pod6}
	check := func() error { return n.Node.CheckPod(p) }
	if check() == nil {
		t.Error("a pod that was never added passes")
	}
	n.add(t, &p)
	if err := check(); err != nil {
		t.Error(err)
	}
	ns.Run(t, "ip addr del 10.0.1.20/32 dev eth0")
	if err := check(); err == nil || !strings.Contains(err.Error(), "10.0.1.20") {
		t.Errorf("error %v does not name the address", err)
	}
	for range 2 { // absent is fine
		if err := n.Node.DelPod(p); err != nil {
			t.Fatal(err)
		}
	}
	if check() == nil {
		t.Error("a pod that was deleted passes")
	}
}

func TestRemoteRoutesAreExactlyThoseOfTheList(t *testing.T) {
	remote := func(n byte) []link.Remote {
		hop := netip.AddrFrom4([4]byte{172, 30, 0, n})
		return []link.Remote{{Range: netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", n)), NextHop: hop},
			{Range: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", n)), NextHop: netip.MustParseAddr(fmt.Sprintf("fd30::%d", n))}}
	}
	for _, mode := range []struct {
		name      string
		change    func(*link.Options)
		v4, v6    string
		neighbour bool
	}{
		{"tunnel", nil, "10.0.2.0/24 dev " + link.OverlayName + " proto 83 scope link src 10.0.1.1", "fd00:2::/64 dev " + link.OverlayName, false},
		{"direct", func(o *link.Options) { o.Tunnel, o.Direct = false, true }, "10.0.2.0/24 via 172.30.0.2 dev up0", "fd00:2::/64 via fd30::2 dev up0", true},
	} {
		t.Run(mode.name, func(t *testing.T) {
			n, ns := newNode(t, mode.change), nstest.New(t, "pod")
			p := link.Pod{NetNS: ns.Path, IPv4: pod4, IPv6: pod6}
			n.add(t, &p)
			for range 2 {
				if err := n.Node.SetRemotes(append(remote(2), remote(3)...)); err != nil {
					t.Fatal(err)
				}
			}
			holds(t, n.Namespace, "ip route", mode.v4)
			holds(t, n.Namespace, "ip -6 route", mode.v6)
			if err := n.Node.SetRemotes(remote(2)); err != nil {
				t.Fatal(err)
			}
			out, _ := n.Namespace.Output("ip route")
			if strings.Contains(out, "10.0.3.0/24") {
				t.Errorf("a node that is gone still has a route:\n%s", out)
			}
			holds(t, n.Namespace, "ip route", mode.v4, pod4.String()+" dev", "unreachable 10.0.1.0/24")
		})
	}
}

func TestCleanupLeavesNothing(t *testing.T) {
	n, ns := newNode(t, nil), nstest.New(t, "pod")
	look := func() string {
		var all []string
		for _, c := range []string{"ip -o link", "ip route show table all", "ip -6 route show table all", "ip rule"} {
			out, _ := n.Namespace.Output(c)
			for _, line := range strings.Split(out, "\n") {
				if strings.Contains(line, "stentor") || strings.Contains(line, link.PodPrefix) || strings.Contains(line, "proto 83") {
					all = append(all, line)
				}
			}
		}
		return strings.Join(all, "\n")
	}
	p := link.Pod{NetNS: ns.Path, IPv4: pod4, IPv6: pod6}
	n.add(t, &p)
	if look() == "" {
		t.Fatal("nothing of ours is seen while everything is there")
	}
	n.Namespace.Do(func() {
		if err := link.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	if left := look(); left != "" {
		t.Errorf("left:\n%s", left)
	}
}

func TestANamespaceThatIsGoneIsAnError(t *testing.T) {
	n := newNode(t, nil)
	var err error
	n.Namespace.Do(func() { err = n.Node.AddPod(&link.Pod{NetNS: "/run/netns/st-dp-none", IPv4: pod4}, nil) })
	if !os.IsNotExist(err) && (err == nil || !strings.Contains(err.Error(), "no such file")) {
		t.Errorf("error %v", err)
	}
}

// The work of a CNI ADD on devices takes about a millisecond on an idle machine.
func TestAddingAPodIsFast(t *testing.T) {
	n := newNode(t, nil)
	const pods = 30
	var took []time.Duration
	for i := range pods {
		ns := nstest.New(t, fmt.Sprintf("pod%d", i))
		p := link.Pod{NetNS: ns.Path, IPv4: netip.AddrFrom4([4]byte{10, 0, 1, byte(100 + i)}), IPv6: netip.MustParseAddr(fmt.Sprintf("fd00:1::1:%x", i))}
		start := time.Now()
		n.add(t, &p)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("least %v, p50 %v, largest %v", took[0], took[pods/2], took[pods-1])
	if took[0] > 10*time.Millisecond {
		t.Errorf("%v at best: ten times of what it should be", took[0])
	}
}
