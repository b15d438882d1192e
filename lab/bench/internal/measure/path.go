// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/stentor-net/stentor/internal/bench"
)

// way is a path between two pods.
type way struct {
	name     string
	from, to *space
	dst      netip.Addr
}

// paths is every way that is compared, side by side.
type paths struct {
	*world
	raw, raw6, kernelSame, kernelCross, kernelVXLAN, bridge way
	same, same6, cross, native                              way
	tunnel                                                  *stentorCluster
}

func (p *paths) all() []way {
	return []way{p.raw, p.raw6, p.kernelSame, p.kernelCross, p.kernelVXLAN, p.bridge, p.same, p.same6, p.cross, p.native}
}

func newPaths(ctx context.Context) (*paths, error) {
	w, err := newWorld()
	if err != nil {
		return nil, err
	}
	p := &paths{world: w}
	if err := p.build(ctx); err != nil {
		w.close()
		return nil, err
	}
	return p, nil
}

func (p *paths) build(ctx context.Context) error {
	from, to, dst, err := p.pair()
	if err != nil {
		return err
	}
	p.raw, p.raw6 = way{"raw veth", from, to, dst[0]}, way{"raw veth, IPv6", from, to, dst[1]}
	if err := p.buildKernel(); err != nil {
		return err
	}
	if p.tunnel, err = p.stentor(ctx, 50, true, nil); err != nil {
		return err
	}
	pods := [3]*stentorPod{}
	for i, n := range []*stentorNode{p.tunnel.nodes[0], p.tunnel.nodes[0], p.tunnel.nodes[1]} {
		if pods[i], err = p.tunnel.pod(ctx, n); err != nil {
			return err
		}
	}
	p.same = way{"Stentor, same node", pods[0].space, pods[1].space, pods[1].addr[0]}
	p.same6 = way{"Stentor, same node, IPv6", pods[0].space, pods[1].space, pods[1].addr[1]}
	p.cross = way{"Stentor, cross node, VXLAN", pods[0].space, pods[2].space, pods[2].addr[0]}
	native, err := p.stentor(ctx, 51, false, nil)
	if err != nil {
		return err
	}
	a, err := native.pod(ctx, native.nodes[0])
	if err != nil {
		return err
	}
	b, err := native.pod(ctx, native.nodes[1])
	if err != nil {
		return err
	}
	p.native = way{"Stentor, cross node, native routing", a.space, b.space, b.addr[0]}
	return p.settle()
}

// buildKernel makes the nodes that Stentor is compared with.
func (p *paths) buildKernel() error {
	var h [5]*host
	for i, name := range []string{"routed1", "routed2", "vxlan1", "vxlan2", "bridged"} {
		var err error
		if h[i], err = p.host(name); err != nil {
			return err
		}
	}
	pod := func(at *host, name, addr string) (*space, error) { return p.plainPod(at, name, addr) }
	a, err := pod(h[0], "ra", "10.61.1.2")
	if err != nil {
		return err
	}
	b, err := pod(h[0], "rb", "10.61.1.3")
	if err != nil {
		return err
	}
	far, err := pod(h[1], "rc", "10.61.2.2")
	if err != nil {
		return err
	}
	if err := h[0].run("ip route add 10.61.2.0/24 via " + h[1].addr[0].String()); err != nil {
		return err
	}
	if err := h[1].run("ip route add 10.61.1.0/24 via " + h[0].addr[0].String()); err != nil {
		return err
	}
	p.kernelSame = way{"kernel routing, same node", a, b, netip.MustParseAddr("10.61.1.3")}
	p.kernelCross = way{"kernel routing, cross node", a, far, netip.MustParseAddr("10.61.2.2")}
	if a, err = pod(h[2], "va", "10.62.1.2"); err != nil {
		return err
	}
	if far, err = pod(h[3], "vb", "10.62.2.2"); err != nil {
		return err
	}
	if err := vxlan(h[2], h[3], "10.62.1.0/24", "10.62.2.0/24"); err != nil {
		return err
	}
	p.kernelVXLAN = way{"kernel VXLAN + routing", a, far, netip.MustParseAddr("10.62.2.2")}
	from, to, dst, err := p.bridgePods(h[4])
	p.bridge = way{"bridge CNI, same node", from, to, dst}
	return err
}

// settle waits until every way carries traffic: neighbours are found, and
// bridge ports forward.
func (p *paths) settle() error {
	for _, w := range p.all() {
		var err error
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if _, err = pingPong(kindRR, w.from, w.to, w.dst, 4999, 20*time.Millisecond); err == nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("%s carries no traffic: %w", w.name, err)
		}
	}
	return nil
}

// Length of one measurement, and how many rounds there are of them.
const (
	pathTime   = 250 * time.Millisecond
	pathRounds = 11
)

// measurePaths compares all ways, one after the other in each round.
func measurePaths(ctx context.Context, e *Env) error {
	p, err := newPaths(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	ways := p.all()
	took := map[string]map[string][]float64{kindRR: {}, kindCRR: {}}
	port := uint16(5000)
	rounds := e.rounds(pathRounds)
	for round := range rounds {
		e.progress("round %d of %d", round+1, rounds)
		for i := range ways {
			w := ways[i]
			if round%2 == 1 { // the other way round, so that no one always comes after the same neighbour
				w = ways[len(ways)-1-i]
			}
			for _, kind := range []string{kindRR, kindCRR} {
				if err := ctx.Err(); err != nil {
					return err
				}
				port++
				r, err := pingPong(kind, w.from, w.to, w.dst, port, pathTime)
				if err != nil {
					return err
				}
				took[kind][w.name] = append(took[kind][w.name], r.P50/1000)
			}
		}
	}
	for _, kind := range []string{kindRR, kindCRR} {
		t, label := took[kind], map[string]string{kindRR: "RR", kindCRR: "CRR"}[kind]
		bar := func(rr, crr float64) float64 {
			if kind == kindRR {
				return rr
			}
			return crr
		}
		how := fmt.Sprintf("p50 of %s each, %d rounds in turns", pathTime, len(t[p.raw.name]))
		ratio := func(name string, ours, theirs way) bench.Row {
			return bench.Ratio("TCP "+label+", "+name, t[ours.name], t[theirs.name]).By("%s", how)
		}
		e.Add(
			ratio("same node over raw veth", p.same, p.raw).Below(bar(1.06, 1.10)),
			ratio("cross node VXLAN over kernel VXLAN + routing", p.cross, p.kernelVXLAN).Below(bar(0.92, 0.96)),
			ratio("same node over raw veth, IPv6", p.same6, p.raw6),
			ratio("same node over kernel routing", p.same, p.kernelSame),
			ratio("same node over bridge CNI", p.same, p.bridge),
			ratio("cross node native over kernel routing", p.native, p.kernelCross),
		)
		for _, w := range ways {
			e.Add(bench.Median("TCP "+label+" p50, "+w.name, "us", t[w.name]))
		}
	}
	return nil
}
