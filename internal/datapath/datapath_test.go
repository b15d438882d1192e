// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
)

// modes runs a test with tunnels and with native routing.
func modes(t *testing.T, f func(t *testing.T, c *cluster)) {
	for _, m := range []struct {
		name   string
		tunnel bool
	}{{"vxlan", true}, {"native", false}} {
		t.Run(m.name, func(t *testing.T) { f(t, newCluster(t, m.tunnel)) })
	}
}

func (p *pod) addrs() []netip.Addr { return []netip.Addr{p.link.IPv4, p.link.IPv6} }

func TestPodsOfOneNodePingEachOther(t *testing.T) {
	c := newCluster(t, true)
	a, b := c.nodes[0].pod(), c.nodes[0].pod()
	for _, to := range b.addrs() {
		if err := a.Ping(to, nstest.Wait); err != nil {
			t.Errorf("%v\n%s", err, c.state())
		}
	}
}

func TestPodsOfTwoNodesPingEachOther(t *testing.T) {
	modes(t, func(t *testing.T, c *cluster) {
		a, b := c.nodes[0].pod(), c.nodes[1].pod()
		for _, to := range b.addrs() {
			if err := a.Ping(to, nstest.Wait); err != nil {
				t.Errorf("%v\n%s", err, c.state())
			}
		}
	})
}
