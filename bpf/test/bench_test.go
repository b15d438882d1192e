// SPDX-License-Identifier: Apache-2.0

package test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Packets of one test run: many, so that the system call does not count; first
// packets only as many as the ring has room for their events.
const (
	perRun   = 100000
	firstRun = 4000
)

// nanoseconds is what one run of a program costs by the kernel's statistics.
func nanoseconds(b *testing.B, p *ebpf.Program, packet []byte, in from, repeat uint32) float64 {
	b.Helper()
	before, err := p.Stats()
	if err != nil {
		b.Fatal(err)
	}
	ctx := skb{Ifindex: deviceIndex[in.device], Mark: in.mark}
	if _, err := p.Run(&ebpf.RunOptions{Data: packet, Context: ctx, Repeat: repeat}); err != nil {
		b.Fatal(err)
	}
	after, err := p.Stats()
	if err != nil {
		b.Fatal(err)
	}
	return float64(after.Runtime-before.Runtime) / float64(after.RunCount-before.RunCount)
}

// empty is a program that does nothing: what it costs is the measuring.
func empty(b *testing.B) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// BenchmarkFromPod measures the established path of from_pod, best of all runs.
// A run sends the same packet over and over, so the pods have such MACs that a
// delivery changes nothing.
func BenchmarkFromPod(b *testing.B) {
	requireRoot(b)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	near := server
	near.mac, near.nodeMAC = client.nodeMAC, client.mac
	for _, f := range families {
		for name, to := range map[string]pod{"same node": near, "cross node": remote} {
			b.Run(f.name+" "+name, func(b *testing.B) {
				n := makeNode(b, nil, false)
				(&cluster{a: n}).fill()
				n.addPod(near)
				in := from{device: devPod1}
				ack := between(client, to, f.six, 4000, 80, "A").bytes(b)
				nothing, each := 1e9, 1e9
				for b.Loop() {
					nothing = min(nothing, nanoseconds(b, empty(b), ack, in, perRun))
					each = min(each, nanoseconds(b, n.prog("from_pod"), ack, in, perRun))
				}
				b.ReportMetric(each, "ns/run")
				b.ReportMetric(nothing, "ns/empty")
				b.ReportMetric(0, "ns/op")
				for _, row := range n.flowRows() {
					if row.Packets[0] < perRun {
						b.Errorf("%d packets were counted: this is not the established path", row.Packets[0])
					}
				}
			})
		}
	}
}

// BenchmarkFromPodFirstPacket measures the way of a first packet: both verdicts,
// a new row, the events. SYN with RST opens a connection that has ended at once,
// so that the same packet takes that way every time.
func BenchmarkFromPodFirstPacket(b *testing.B) {
	requireRoot(b)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	near := server
	near.mac, near.nodeMAC = client.nodeMAC, client.mac
	n := makeNode(b, nil, false)
	(&cluster{a: n}).fill()
	n.addPod(near)
	packet := between(client, near, false, 4000, 80, "SR").bytes(b)
	each := 1e9
	for b.Loop() {
		each = min(each, nanoseconds(b, n.prog("from_pod"), packet, from{device: devPod1}, firstRun))
		n.readEvents()
	}
	b.ReportMetric(each, "ns/run")
	b.ReportMetric(0, "ns/op")
	for _, row := range n.flowRows() {
		if row.Packets[0] != 1 {
			b.Errorf("%d packets in the row: these were not first ones", row.Packets[0])
		}
	}
}
