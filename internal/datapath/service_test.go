// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/service"
)

var vips = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd96::10")}

const vipPort = 80

// frontends makes one service of both families over pods.
func frontends(pods ...*pod) (out []service.Frontend) {
	for family, vip := range vips {
		for _, protocol := range []uint8{6, 17} {
			f := service.Frontend{Service: "default/echo", Addr: vip, Port: vipPort, Protocol: protocol, Kind: service.ClusterIP}
			for _, p := range pods {
				f.Backends = append(f.Backends, service.Backend{Addr: p.addrs()[family], Port: echoPort, Protocol: protocol, State: service.Active})
			}
			out = append(out, f)
		}
	}
	return out
}

// serves calls every frontend a few times, so that each backend is chosen.
func serves(t *testing.T, c *cluster, from *nstest.Namespace) {
	t.Helper()
	for _, vip := range vips {
		for _, x := range []struct {
			network string
			size    int
		}{{"tcp", 200}, {"tcp", 100000}, {"udp", 100}} {
			for range 6 {
				if err := from.Call(x.network, netip.AddrPortFrom(vip, vipPort), x.size, nstest.Wait); err != nil {
					t.Fatalf("%s to %s: %v\n%s", x.network, vip, err, c.state())
				}
			}
		}
	}
}

func TestPodsReachServicesOnTheWire(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		client, near, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
		if c.nodes[0].dp.tables.Map(abi.MapServiceFlows) == nil {
			t.Skip("the programs of this version do not translate services yet")
		}
		near4, far4 := echo(t, near.Namespace), echo(t, far.Namespace)
		echo(t, client.Namespace)
		set := func(pods ...*pod) {
			t.Helper()
			if err := c.nodes[0].dp.SetFrontends(frontends(pods...)); err != nil {
				t.Fatal(err)
			}
		}
		set(near, far)
		serves(t, c, client.Namespace)
		if len(near4()) == 0 || len(far4()) == 0 {
			t.Errorf("%d and %d calls: one backend was never chosen", len(near4()), len(far4()))
		}
		set(far)
		before := len(near4())
		serves(t, c, client.Namespace)
		if after := len(near4()); after != before {
			t.Errorf("%d calls reached a backend that was removed", after-before)
		}
		t.Run("a pod reaches itself through its service", func(t *testing.T) {
			set(client)
			serves(t, c, client.Namespace)
		})
		set()
		for _, vip := range vips {
			refused(t, client.Namespace, "tcp", netip.AddrPortFrom(vip, vipPort))
		}
		if _, rows, err := c.nodes[0].dp.Dump("lb"); err != nil || len(rows) != 4 {
			t.Errorf("%d frontends, %v; want 4 without backends", len(rows), err)
		}
	})
}

// setFrontends works in the namespace of the node: growth loads programs anew.
func (n *node) setFrontends(t *testing.T, list []service.Frontend) {
	t.Helper()
	n.Do(func() {
		if err := n.dp.SetFrontends(list); err != nil {
			t.Error(err)
		}
	})
}

// More services than the tables begin with: they grow, and a connection that is
// open meanwhile does not notice.
func TestTablesOfServicesGrowUnderTraffic(t *testing.T) {
	nstest.RequireRoot(t)
	c := newCluster(t, true)
	client, near := c.nodes[0].pod(), c.nodes[0].pod()
	echo(t, near.Namespace)
	dp := c.nodes[0].dp
	list := frontends(near)
	c.nodes[0].setFrontends(t, list)
	before := dp.tables.Map(abi.MapServices).MaxEntries()
	conn, err := client.Dial("tcp", netip.AddrPortFrom(vips[0], vipPort), nstest.Wait)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for n := range int(before) + 1 {
		f := list[0]
		f.Addr = netip.AddrFrom4([4]byte{10, 97, byte(n >> 8), byte(n)})
		list = append(list, f)
	}
	c.nodes[0].setFrontends(t, list)
	if after := dp.tables.Map(abi.MapServices).MaxEntries(); after <= before {
		t.Errorf("%d rows after, %d before", after, before)
	}
	last := list[len(list)-1].Addr
	for what := range 2 {
		if err := nstest.Exchange(conn, 100, nstest.Wait); err != nil {
			t.Errorf("%d: the open connection: %v", what, err)
		}
		for _, to := range []netip.Addr{vips[0], last} {
			if err := client.Call("tcp", netip.AddrPortFrom(to, vipPort), 100, nstest.Wait); err != nil {
				t.Errorf("%d: %s: %v\n%s", what, to, err, c.state())
			}
		}
		c.nodes[0].restart() // finds the larger tables
		dp = c.nodes[0].dp
	}
	if after := dp.tables.Map(abi.MapServices).MaxEntries(); after <= before {
		t.Errorf("%d rows after a restart, %d before", after, before)
	}
}

// joinCgroup moves the test into a cgroup of its own, until it ends.
func joinCgroup(t *testing.T) string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	root, home := "", ""
	mounts, _ := os.ReadFile("/proc/mounts")
	for _, line := range strings.Split(string(mounts), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" && root == "" {
			root = f[1]
		}
	}
	for _, line := range strings.Split(string(own), "\n") {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			home = path
		}
	}
	if root == "" || home == "" {
		t.Skip("no cgroup v2 hierarchy is mounted")
	}
	dir := filepath.Join(root, fmt.Sprintf("st-dp-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("cgroup v2 cannot be written: %v", err)
	}
	move := func(to string) error {
		return os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(fmt.Sprint(os.Getpid())), 0o644)
	}
	t.Cleanup(func() {
		if err := move(filepath.Join(root, home)); err != nil {
			t.Error(err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if err := move(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSocketsAreTranslatedAtConnect(t *testing.T) {
	nstest.RequireRoot(t)
	cgroup := joinCgroup(t)
	c := newCluster(t, true)
	n := c.nodes[0]
	n.cfg.SocketLB, n.cfg.CgroupRoot = true, cgroup
	n.restart()
	client, near, far := n.pod(), n.pod(), c.nodes[1].pod()
	echo(t, near.Namespace)
	echo(t, far.Namespace)
	if err := n.dp.SetFrontends(frontends(near, far)); err != nil {
		t.Fatal(err)
	}
	serves(t, c, client.Namespace)
	// From the node itself there is no other way to a service.
	serves(t, c, n.Namespace)
	_, rows, err := n.dp.Dump("ct")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if line := strings.Join(r, " "); strings.Contains(line, vips[0].String()) || strings.Contains(line, vips[1].String()) {
			t.Errorf("a flow still names the service: %s", line)
		}
	}
	conn, err := client.Dial("tcp", netip.AddrPortFrom(vips[0], vipPort), nstest.Wait)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != netip.AddrPortFrom(vips[0], vipPort).String() {
		t.Errorf("the peer of the socket is %s, want the service", got)
	}
	for range 2 { // links are updated, then found again
		n.restart()
		serves(t, c, client.Namespace)
		if err := nstest.Exchange(conn, 100, nstest.Wait); err != nil {
			t.Errorf("a connection over a restart: %v", err)
		}
	}
	if err := n.dp.SetFrontends(frontends()); err != nil {
		t.Fatal(err)
	}
	for _, vip := range vips {
		refused(t, n.Namespace, "tcp", netip.AddrPortFrom(vip, vipPort))
	}
	n.cfg.SocketLB = false
	n.restart()
	if list, _ := os.ReadDir(filepath.Join(n.cfg.BPFDir, "links")); len(list) > 0 {
		t.Errorf("%d links are left although socket translation is off", len(list))
	}
}
