// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/bench"
)

// How many services there are, beside each node's own.
var servicesCurve = []int{10, 1000, 5000, 10000, 30000}

const (
	curveTime   = 200 * time.Millisecond // of one measurement
	curveRounds = 11
	curveLimit  = 5 * time.Minute // for services to work
	directPod   = "pod itself"

	changeSettles = 300 * time.Millisecond // what a change leaves to do is done
)

// contest is the nodes that are compared.
type contest struct {
	*Env
	w     *world
	agent *agentNode
	nodes []*proxied
	there int // services in the API
}

// newContest has every node's services carried out, and none but their own.
func newContest(ctx context.Context, e *Env) (c *contest, err error) {
	for _, tool := range []string{"nft", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w (make deps)", err)
		}
	}
	c = &contest{Env: e}
	if c.w, err = newWorld(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.w.close()
		}
	}()
	ours, agent, err := c.w.stentorProxied(ctx, e.Bin)
	if err != nil {
		return nil, err
	}
	c.agent, c.nodes = agent, []*proxied{ours}
	for i, x := range [][2]string{{byNftables, "nftables"}, {byIptables, "iptables"}} {
		p, err := c.w.kubeProxied(e.Bin, x[0], x[1], 2+i, agent.api)
		if err != nil {
			return nil, err
		}
		if err := p.start(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		c.nodes = append(c.nodes, p)
	}
	for _, p := range c.nodes {
		p.own(ownTarget, true)
		p.own(ownSwitch, false)
	}
	return c, nil
}

// grow makes it so many services, and waits until every node carries them out.
func (c *contest) grow(ctx context.Context, count int) error {
	for _, p := range c.nodes {
		p.disown(ownMark)
	}
	others(c.agent.api, c.there, count)
	c.there = count
	for _, p := range c.nodes {
		p.own(ownMark, true)
	}
	start := time.Now()
	for _, p := range c.nodes {
		for _, own := range []int{ownTarget, ownMark} {
			w, err := p.watch(p.vip(own))
			if err != nil {
				return err
			}
			_, err = w.until(true, curveLimit)
			w.end()
			if err != nil {
				return fmt.Errorf("%s with %d services: %w\n%s", p.name, count, err, p.log.String())
			}
		}
		fmt.Fprintf(c.Log, "  %s carries out %d services after %s\n", p.name, count, time.Since(start).Round(time.Millisecond))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// curves are samples by metric, way and number of services.
type curves struct {
	order []string
	took  map[string]map[int][]float64
}

func (c *curves) add(name string, at int, v float64) {
	if c.took == nil {
		c.took = map[string]map[int][]float64{}
	}
	if c.took[name] == nil {
		c.took[name] = map[int][]float64{}
		c.order = append(c.order, name)
	}
	c.took[name][at] = append(c.took[name][at], v)
}

// measureServices compares short connections while services become more.
func measureServices(ctx context.Context, e *Env) error {
	c, err := newContest(ctx, e)
	if err != nil {
		return err
	}
	defer c.w.close()
	sizes := servicesCurve
	if e.Fast {
		sizes = []int{10, 1000}
	}
	all := map[string]*curves{"CRR p50": {}, "CRR p99": {}, "Short connections": {}, "First packet: connect() p50": {}, "connect() of a new TCP socket, translation alone": {}, "connect() of the same UDP socket, translation alone": {}}
	for _, n := range sizes {
		if err := c.grow(ctx, n); err != nil {
			return err
		}
		if err := c.connections(ctx, n, all); err != nil {
			return err
		}
		if err := c.translation(n, all); err != nil {
			return err
		}
	}
	c.report(sizes, all)
	return c.change(ctx, sizes[len(sizes)-1])
}

// connections measures every way in turns.
func (c *contest) connections(ctx context.Context, n int, all map[string]*curves) error {
	type turn struct {
		name string
		at   *proxied
		dst  netip.AddrPort
	}
	var turns []turn
	for _, p := range c.nodes {
		turns = append(turns, turn{p.name + ", " + directPod, p, netip.AddrPortFrom(p.server, servedPort)}, turn{p.name, p, p.vip(ownTarget)})
	}
	for round := range c.rounds(curveRounds) {
		for i := range turns {
			t := turns[i]
			if round%2 == 1 {
				t = turns[len(turns)-1-i]
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			r, err := t.at.crr(t.dst, curveTime)
			if err != nil {
				return err
			}
			all["CRR p50"].add(t.name, n, r.P50/1000)
			all["CRR p99"].add(t.name, n, r.P99/1000)
			all["Short connections"].add(t.name, n, float64(r.Count)/r.Seconds)
			all["First packet: connect() p50"].add(t.name, n, r.First50/1000)
		}
	}
	return nil
}

// translation reads what the program at connect() takes.
func (c *contest) translation(n int, all map[string]*curves) error {
	ours := c.nodes[0]
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("enable statistics of programs: %w", err)
	}
	defer stats.Close()
	prog, err := ebpf.LoadPinnedProgram(BPFRoot+"/stentor/programs/sock_connect4", nil)
	if err != nil {
		return err
	}
	defer prog.Close()
	for range c.rounds(curveRounds) {
		for kind, metric := range map[string]string{kindTCP: "connect() of a new TCP socket, translation alone", kindUDP: "connect() of the same UDP socket, translation alone"} {
			dst := ours.vip(ownTarget)
			ns, err := connecting(ours.from, prog, ours.client.CgroupFD, kind, dst.String())
			if err != nil {
				return err
			}
			all[metric].add(byStentor, n, ns)
		}
	}
	return nil
}

// report adds the curves, and what they are judged by.
func (c *contest) report(sizes []int, all map[string]*curves) {
	least, most := sizes[0], sizes[len(sizes)-1]
	crr, first := all["CRR p50"].took, all["connect() of a new TCP socket, translation alone"].took[byStentor]
	udp := all["connect() of the same UDP socket, translation alone"].took[byStentor]
	rate := all["Short connections"].took
	how := fmt.Sprintf("p50 of %s each, %d rounds in turns", curveTime, c.rounds(curveRounds))
	direct := byStentor + ", " + directPod
	c.Add(
		bench.Ratio("CRR, service over the pod itself", crr[byStentor][least], crr[direct][least]).Below(1.03).By("%s, %d services", how, least),
		bench.Ratio(fmt.Sprintf("CRR, service over the pod itself, %d services", most), crr[byStentor][most], crr[direct][most]).Below(1.03).By("%s", how),
		bench.Ratio("short connections, kube-proxy nftables over Stentor", rate[byNftables][least], rate[byStentor][least]).Below(1).By("connections per second, %d services", least),
		bench.Ratio("short connections, kube-proxy iptables over Stentor", rate[byIptables][least], rate[byStentor][least]).By("connections per second, %d services", least),
		bench.Ratio(fmt.Sprintf("CRR at %d services over %d, each over the pod itself", most, least), ratios(crr[byStentor][most], crr[direct][most]), ratios(crr[byStentor][least], crr[direct][least])).Below(1.05).By("%s", how),
		bench.Ratio(fmt.Sprintf("connect() of a TCP socket at %d services over %d", most, least), first[most], first[least]).Below(1.05).By("kernel statistics"),
		bench.Ratio(fmt.Sprintf("connect() of a UDP socket at %d services over %d", most, least), udp[most], udp[least]).Below(1.05).By("kernel statistics"),
		bench.Median(fmt.Sprintf("connect() of a TCP socket, %d services", least), "ns", first[least]).Below(130).By("kernel statistics"),
		bench.Median(fmt.Sprintf("connect() of a UDP socket, %d services", least), "ns", udp[least]).Below(90).By("kernel statistics"),
	)
	for _, m := range []struct{ name, unit string }{{"CRR p50", "us"}, {"CRR p99", "us"}, {"Short connections", "/s"}, {"First packet: connect() p50", "us"},
		{"connect() of a new TCP socket, translation alone", "ns"}, {"connect() of the same UDP socket, translation alone", "ns"}} {
		for _, way := range all[m.name].order {
			for _, n := range sizes {
				r := bench.Median(way, m.unit, all[m.name].took[way][n])
				r.Curve, r.At = m.name, n
				c.Add(r)
			}
		}
	}
}

func ratios(a, b []float64) (out []float64) {
	for i := range min(len(a), len(b)) {
		out = append(out, a[i]/b[i])
	}
	return out
}

// change gives one service its only endpoint and takes it away again, and sees
// when connections show it.
func (c *contest) change(ctx context.Context, n int) error {
	for _, p := range c.nodes {
		w, err := p.watch(p.vip(ownSwitch))
		if err != nil {
			return err
		}
		defer w.end()
		if _, err := w.until(false, time.Minute); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		var took, used []float64
		rounds := c.rounds(24)
		for i := range rounds {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// Not in step with anybody's clock.
			time.Sleep(time.Duration(1500+i*37%500) * time.Millisecond)
			before, err := usedBy(p.pid())
			if err != nil {
				return err
			}
			start := time.Now()
			p.own(ownSwitch, i%2 == 0)
			at, err := w.until(i%2 == 0, time.Minute)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			time.Sleep(changeSettles)
			after, err := usedBy(p.pid())
			if err != nil {
				return err
			}
			took, used = append(took, ms(at.Sub(start))), append(used, ms(after-before))
		}
		w.end()
		row := bench.Median("one change, until connections show it, "+p.name, "ms", took).By("%d services, %d changes", n, rounds)
		if p.name == byStentor {
			row = row.Below(20)
		}
		memory, err := memoryOf(p.pid())
		if err != nil {
			return err
		}
		c.Add(row, bench.Median("processor time of one change, "+p.name, "ms", used).By("%d services, with children; until %s after it works", n, changeSettles),
			bench.Single("resident memory, "+p.name, "MiB", memory["VmRSS"]).By("%d services, %s", n, parts(memory)))
	}
	maps, err := memoryOfPins(BPFRoot + "/stentor")
	if err != nil {
		return err
	}
	sum := 0.0
	for _, m := range maps {
		switch m.name {
		case "services", "service_slots", "backends", "maglev_rows", "service_vips", "affinity_back", "affinity_backends":
			sum += float64(m.bytes)
			c.Add(bench.Single("map "+m.name, "MiB", float64(m.bytes)/mebibyte).By("%d rows, %d services with %d endpoints", m.rows, n, endpointsOf))
		}
	}
	c.Add(bench.Single("maps of services that grow", "MiB", sum/mebibyte).By("%d services with %d endpoints", n, endpointsOf))
	return nil
}
