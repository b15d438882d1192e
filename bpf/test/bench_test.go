// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/bench"
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

// report gives the rows of a benchmark: what its program took, and what the
// measuring itself did.
func report(b *testing.B, name string, bar float64, each, nothing []float64) {
	b.Helper()
	row := bench.Median(name, "ns", each).Below(bar).By("BPF_PROG_TEST_RUN, %d runs of the same packet a sample", perRun)
	b.ReportMetric(row.Value, "ns/run")
	b.ReportMetric(0, "ns/op")
	if nothing == nil {
		bench.Report(b, row)
		return
	}
	empty := bench.Median(name+": without it", "ns", nothing)
	b.ReportMetric(empty.Value, "ns/empty")
	bench.Report(b, row, empty)
}

// BenchmarkFromPod measures the established path of from_pod.
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
		for _, x := range []struct {
			name string
			to   pod
			bar  float64
		}{{"same node", near, 250}, {"cross node with encapsulation", remote, 280}} {
			b.Run(f.name+" "+x.name, func(b *testing.B) {
				n := makeNode(b, nil, false)
				(&cluster{a: n}).fill()
				n.addPod(near)
				in := from{device: devPod1}
				ack := between(client, x.to, f.six, 4000, 80, "A").bytes(b)
				var nothing, each []float64
				for b.Loop() {
					nothing = append(nothing, nanoseconds(b, empty(b), ack, in, perRun))
					each = append(each, nanoseconds(b, n.prog("from_pod"), ack, in, perRun))
				}
				report(b, "from_pod, "+f.name+", "+x.name+", established", x.bar, each, nothing)
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
	var each []float64
	for b.Loop() {
		each = append(each, nanoseconds(b, n.prog("from_pod"), packet, from{device: devPod1}, firstRun))
		n.readEvents()
	}
	report(b, "from_pod, first packet of a connection", 1000, each, nil)
	for _, row := range n.flowRows() {
		if row.Packets[0] != 1 {
			b.Errorf("%d packets in the row: these were not first ones", row.Packets[0])
		}
	}
}

// arrival is a program that gives the packet a tunnel header, as the VXLAN device
// does, and goes on with next; nil: ends there.
func arrival(b *testing.B, outer string, vni uint32, next *ebpf.Program) *ebpf.Program {
	b.Helper()
	programs, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { programs.Close() })
	if next != nil {
		if err := programs.Put(uint32(0), next); err != nil {
			b.Fatal(err)
		}
	}
	const size = 44 // of struct bpf_tunnel_key
	code := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), asm.Mov.Imm(asm.R1, 0)}
	for at := int16(-48); at < 0; at += 8 {
		code = append(code, asm.StoreMem(asm.R10, at, asm.R1, asm.DWord))
	}
	code = append(code,
		asm.StoreImm(asm.R10, -48, int64(vni), asm.Word),
		asm.LoadImm(asm.R1, int64(binary.BigEndian.Uint32(ip(outer))), asm.DWord),
		asm.StoreMem(asm.R10, -48+28, asm.R1, asm.Word), // local address: what get_tunnel_key gives as the remote one
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -48),
		asm.Mov.Imm(asm.R3, size),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkbSetTunnelKey.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, programs.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return())
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// BenchmarkFromOverlay measures the established path from the tunnel into a pod.
// What it costs to make the tunnel header is part of it.
func BenchmarkFromOverlay(b *testing.B) {
	requireRoot(b)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	for _, f := range families {
		b.Run(f.name, func(b *testing.B) {
			n := makeNode(b, nil, false)
			(&cluster{a: n}).fill()
			in := from{device: devOverlay}
			p := arrival(b, hostBIP4, remote.identity, n.prog("from_overlay"))
			alone := arrival(b, hostBIP4, remote.identity, nil)
			packet := between(remote, client, f.six, 4000, 80, "A").bytes(b)
			var nothing, each []float64
			for b.Loop() {
				nothing = append(nothing, nanoseconds(b, alone, packet, in, perRun))
				each = append(each, nanoseconds(b, p, packet, in, perRun))
			}
			report(b, "from_overlay, "+f.name+", to the pod, established", 260, each, nothing)
			rows := n.flowRows()
			for _, row := range rows {
				if row.Packets[0] < perRun {
					b.Errorf("%d packets were counted: this is not the established path", row.Packets[0])
				}
			}
			if len(rows) != 1 {
				b.Errorf("%d rows", len(rows))
			}
		})
	}
}
