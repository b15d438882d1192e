// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/bench"
)

// counted is what the kernel counts of a program.
type counted struct{ runs, ns float64 }

// counters of programs by node ("a", "b") and name.
type counters map[string]counted

var nodeNames = [2]string{"a", "b"}

// read adds up the statistics of all programs of the nodes.
func (c *stentorCluster) read(programs map[string]*ebpf.Program) (counters, error) {
	out := counters{}
	for name, p := range programs {
		s, err := p.Stats()
		if err != nil {
			return nil, fmt.Errorf("statistics of %s: %w", name, err)
		}
		out[name] = counted{float64(s.RunCount), float64(s.Runtime)}
	}
	return out, nil
}

// measurePrograms reads how long each program runs under real traffic. The
// kernel's own counting is part of the numbers (see "empty program").
func measurePrograms(ctx context.Context, e *Env) error {
	p, err := newPaths(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("enable statistics of programs: %w", err)
	}
	defer stats.Close()
	programs := map[string]*ebpf.Program{}
	for i, n := range p.tunnel.nodes {
		for _, name := range []string{"from_pod", "to_pod", "from_overlay", "to_overlay", "from_net", "to_net"} {
			prog, err := n.program(name)
			if err != nil {
				return err
			}
			defer prog.Close()
			programs[nodeNames[i]+" "+name] = prog
		}
	}
	samples := map[string][]float64{}
	port := uint16(20000)
	rounds := e.rounds(9)
	for round := range rounds {
		e.progress("round %d of %d", round+1, rounds)
		for _, w := range []way{p.same, p.same6, p.cross} {
			for _, kind := range []string{kindRR, kindCRR} {
				if err := ctx.Err(); err != nil {
					return err
				}
				before, err := p.tunnel.read(programs)
				if err != nil {
					return err
				}
				port++
				r, err := pingPong(kind, w.from, w.to, w.dst, port, pathTime)
				if err != nil {
					return err
				}
				after, err := p.tunnel.read(programs)
				if err != nil {
					return err
				}
				for name, b := range after {
					// A program that only sees a stray packet now and then says nothing.
					if runs := b.runs - before[name].runs; runs > float64(r.Count) {
						key := w.name + " " + kind + " " + name
						samples[key] = append(samples[key], (b.ns-before[name].ns)/runs)
					}
				}
			}
		}
	}
	how := fmt.Sprintf("kernel statistics over %s of traffic", pathTime)
	row := func(name string, w way, kind, program string, bar float64) {
		if s := samples[w.name+" "+kind+" "+program]; len(s) > 0 || bar > 0 {
			e.Add(bench.Median(name, "ns", s).Below(bar).By("%s", how))
		}
	}
	row("from_pod, same node, established", p.same, kindRR, "a from_pod", 250)
	row("from_pod, same node, mix of connect, request, close", p.same, kindCRR, "a from_pod", 400)
	row("from_pod, same node, established, IPv6", p.same6, kindRR, "a from_pod", 0)
	row("from_pod, same node, mix, IPv6", p.same6, kindCRR, "a from_pod", 0)
	row("from_pod, cross node with encapsulation, established", p.cross, kindRR, "a from_pod", 280)
	row("from_pod, cross node, mix", p.cross, kindCRR, "a from_pod", 0)
	row("from_overlay to the pod, established", p.cross, kindRR, "b from_overlay", 260)
	row("from_overlay, mix", p.cross, kindCRR, "b from_overlay", 0)
	row("to_overlay, behind from_pod", p.cross, kindRR, "a to_overlay", 0)
	row("to_net, tunnel packets", p.cross, kindRR, "a to_net", 0)
	row("from_net, tunnel packets", p.cross, kindRR, "b from_net", 0)
	return nil
}
