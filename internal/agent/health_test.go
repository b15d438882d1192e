// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
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
		opts: Options{ProbePort: 4240}, tables: tables, writer: own.health, checks: newChecks(own.checks, "health"),
		dial: func(_ context.Context, a netip.AddrPort) error {
			if a == down {
				return errors.New("no route to host")
			}
			return nil
		},
	}
	if p.step(t.Context()) {
		t.Error("all nodes answer")
	}
	n2, _ := tables.health.Get("n2")
	if !n2.Node.OK || n2.Endpoint.OK || n2.Endpoint.Error != "no route to host" || len(n2.PodCIDRs) != 1 {
		t.Errorf("got %+v", n2)
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
