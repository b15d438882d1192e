// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
)

func (n *node) repair() {
	n.c.t.Helper()
	var err error
	n.Do(func() { err = n.dp.Repair(context.Background()) })
	if err != nil {
		n.c.t.Error(err)
	}
}

func TestWhatOthersBreakIsPutRight(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		a, b, far := c.nodes[0].pod(), c.nodes[0].pod(), c.nodes[1].pod()
		for _, p := range c.pods {
			echo(t, p.Namespace)
		}
		n := c.nodes[0]
		said := n.logOf()
		for _, breaking := range []string{
			"tc qdisc del dev eth0 clsact",
			"tc qdisc del dev " + a.link.HostIfName + " clsact",
			"ip route flush proto 83 root 10.50.2.0/24",
			"ip -6 route flush proto 83 root fd50:2::/64",
			"ip route del unreachable 10.50.1.0/24",
			"ip addr del 10.50.1.1/32 dev stentor_host",
			"ip link del stentor_host",
			"sysctl -qw net.ipv4.ip_forward=0",
		} {
			said.Reset()
			n.Run(t, breaking)
			n.repair()
			if told := strings.Contains(said.String(), "level=WARN"); told != strings.HasPrefix(breaking, "tc ") {
				t.Errorf("%s: the log says %s", breaking, said)
			}
			n.hasPrograms(t, breaking, "eth0", a.link.HostIfName)
			c.reaches(t, a.Namespace, append(b.addrs(), far.addrs()...)...)
			c.reaches(t, far.Namespace, a.addrs()...)
		}
		if c.tunnel {
			n.Run(t, "ip link del stentor_vxlan")
			n.repair()
			n.hasPrograms(t, "without its device", "stentor_vxlan")
			c.reaches(t, a.Namespace, far.addrs()...)
		}
	})
}

// hasPrograms wants ours on both hooks of devices: packets find a way without them,
// past policy.
func (n *node) hasPrograms(t *testing.T, what string, devices ...string) {
	t.Helper()
	for _, d := range devices {
		for _, hook := range []string{"ingress", "egress"} {
			if out, err := n.Output("tc filter show dev " + d + " " + hook); err != nil || !strings.Contains(out, "stentor_") {
				t.Errorf("%s: no program of ours on %s of %s: %v %s", what, hook, d, err, out)
			}
		}
	}
}

func TestARepairOfWhatIsRightChangesNothing(t *testing.T) {
	c := newCluster(t, true)
	n := c.nodes[0]
	n.pod()
	look := func() string {
		var all []string
		for _, cmd := range []string{"ip -d addr", "ip route", "ip -6 route", "tc filter show dev eth0 ingress", "tc filter show dev stentor_vxlan egress"} {
			out, err := n.Output(cmd)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, out)
		}
		return strings.Join(all, "\n")
	}
	n.repair()
	before := look()
	n.repair()
	if after := look(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestAChangedConfigurationIsCarriedOutUnderTraffic(t *testing.T) {
	c := newCluster(t, true)
	a, far := c.nodes[0].pod(), c.nodes[1].pod()
	stream := a.PingStream(far.link.IPv4, 2*time.Millisecond)
	for _, aggregation := range []string{"none", "medium", "none"} {
		cfg := c.nodes[0].cfg
		cfg.MonitorAggregation = aggregation
		var err error
		c.nodes[0].Do(func() { err = c.nodes[0].dp.UpdateConfig(context.Background(), cfg) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Ping(far.link.IPv6, nstest.Wait); err != nil {
		t.Error(err, c.state())
	}
	stream.Stop()
	if stream.Err != nil || stream.Received != stream.Sent || stream.Sent == 0 {
		t.Errorf("%d sent, %d came back, %v", stream.Sent, stream.Received, stream.Err)
	}
	cfg := c.nodes[0].cfg
	cfg.BPFDir += "-other"
	if err := c.nodes[0].dp.UpdateConfig(context.Background(), cfg); err == nil {
		t.Error("the directory of the tables changed")
	}
}
