// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/node"
)

func TestProbesTellWhichNodeDoesNotAnswer(t *testing.T) {
	tables, raw, own := newTables()
	raw.Nodes.Upsert(
		node.Node{Name: "n1", InternalIP: addrs("172.30.0.11"), Router: addrs("10.0.1.1"), Local: true},
		node.Node{Name: "n2", InternalIP: addrs("172.30.0.12"), Router: addrs("10.0.2.1"), PodCIDRs: prefixes("10.0.2.0/24")},
		node.Node{Name: "n3", InternalIP: addrs("172.30.0.13")},
	)
	down := netip.MustParseAddrPort("10.0.2.1:4240")
	p := &prober{
		opts: Options{ProbePort: 4240, IPv4: true, IPv6: true}, metrics: newMetrics(), tables: tables, writer: own.health, checks: newChecks(own.checks, "health"),
		dial: func(_ context.Context, a netip.AddrPort) error {
			if a == down {
				return errors.New("no route to host")
			}
			return nil
		},
		ping: func(context.Context, netip.Addr) error { return errors.New("pings are held back") },
	}
	if p.step(t.Context()) {
		t.Error("all nodes answer")
	}
	n2, _ := tables.health.Get("n2")
	if !n2.Node.OK || n2.Endpoint.OK || n2.Endpoint.Error != "no route to host" || len(n2.PodCIDRs) != 1 {
		t.Errorf("got %+v", n2)
	}
	if n2.Node.Ping.OK || n2.Node.Ping.Error != "pings are held back" || n2.Node.Latency <= 0 {
		t.Errorf("ping of n2: got %+v %+v", n2.Node.Ping, n2.Node)
	}
	if n3, _ := tables.health.Get("n3"); n3.Endpoint.Error != "the node has not published its address" {
		t.Errorf("got %+v", n3)
	}
	if c, _ := tables.checks.Get("health"); c.State != rest.StateWarning {
		t.Errorf("got %+v", c)
	}
	raw.Nodes.Delete("n3")
	down = netip.AddrPort{}
	if !p.step(t.Context()) || tables.health.Snapshot().Len() != 2 {
		t.Error("a node does not answer")
	}
	if c, _ := tables.checks.Get("health"); c.State != rest.StateOk {
		t.Errorf("got %+v", c)
	}
}

func TestProbesTryEveryFamilyThatPodsHave(t *testing.T) {
	for _, c := range []struct {
		four, six bool
		want      string
	}{
		{true, true, "172.30.0.12 fd00:30::12 10.0.2.1 fd00::1"},
		{true, false, "172.30.0.12 10.0.2.1"},
		{false, true, "fd00:30::12 fd00::1"},
	} {
		var mu sync.Mutex
		tried := map[string]bool{}
		p := &prober{
			opts: Options{ProbePort: 4240, IPv4: c.four, IPv6: c.six}, metrics: newMetrics(),
			dial: func(_ context.Context, a netip.AddrPort) error {
				mu.Lock()
				defer mu.Unlock()
				tried[a.Addr().String()] = true
				return nil
			},
			ping: func(context.Context, netip.Addr) error { return nil },
		}
		h := p.probe(t.Context(), node.Node{Name: "n2", InternalIP: addrs("172.30.0.12", "fd00:30::12"), Router: addrs("10.0.2.1", "fd00::1")})
		if got := len(tried); got != len(strings.Fields(c.want)) || !h.OK() {
			t.Errorf("got %v, %+v, want %s", tried, h, c.want)
		}
		for _, a := range strings.Fields(c.want) {
			if !tried[a] {
				t.Errorf("%s is not tried", a)
			}
		}
	}
}
