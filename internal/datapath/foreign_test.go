// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
)

// foreignFilter puts a program of nobody we know on the ingress of a device of
// the node: it counts packets and hands them on.
func (n *node) foreignFilter(t *testing.T, device string, priority uint16, action int32) (seen func() uint64) {
	t.Helper()
	count, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { count.Close() })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, count.FD()), asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, action).WithSymbol("out"), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	n.Do(func() {
		var l netlink.Link
		if l, err = netlink.LinkByName(device); err != nil {
			return
		}
		err = netlink.FilterAdd(&netlink.BpfFilter{Fd: prog.FD(), Name: "somebody", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 0x99, Priority: priority, Protocol: unix.ETH_P_ALL}})
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() (c uint64) {
		if err := count.Lookup(uint32(0), &c); err != nil {
			t.Fatal(err)
		}
		return c
	}
}

// foreignTCX puts a program of nobody we know before all filters of a device; it
// hands packets on. It reports whether the kernel can (since 6.6).
func (n *node) foreignTCX(t *testing.T, device string) bool {
	t.Helper()
	const next = -1
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, next), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	var at link.Link
	n.Do(func() {
		var l netlink.Link
		if l, err = netlink.LinkByName(device); err == nil {
			at, err = link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: prog, Attach: ebpf.AttachTCXIngress})
		}
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { at.Close() })
	return true
}

// logOf collects what the node's datapath says from now on.
func (n *node) logOf() *bytes.Buffer {
	var b bytes.Buffer
	n.dp.log = slog.New(slog.NewTextHandler(&b, nil))
	return &b
}

func TestForeignProgramsStayAndAreTold(t *testing.T) {
	const (
		unspecified = -1 // to the next filter
		ok          = 0
	)
	c := newCluster(t, true)
	n := c.nodes[0]
	a, b := n.pod(), n.pod()
	echo(t, b.Namespace)
	said := n.logOf()
	n.Run(t, "tc filter add dev eth0 ingress prio 5 u32 match u32 0 0 flowid 1:1")
	behind := n.foreignFilter(t, a.link.HostIfName, 7, ok)
	n.repair()
	for _, want := range []string{"level=INFO", "device=eth0", "u32 filter of priority 5 on ingress", "device=" + a.link.HostIfName, "bpf filter somebody of priority 7 on ingress"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("the log does not say %q: %s", want, said)
		}
	}
	n.restrict(b, onlyTCP)
	n.judges(t, a, b)
	if behind() != 0 {
		t.Error("what is behind our program sees packets that it has decided about")
	}

	first := n.foreignFilter(t, a.link.HostIfName, 1, unspecified)
	said.Reset()
	n.repair()
	if got := said.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "somebody of priority 1") || strings.Contains(got, "priority 7") {
		t.Errorf("a program before ours: the log says %s", got)
	}
	n.judges(t, a, b)
	if first() == 0 {
		t.Error("the program is not before ours: this test tries nothing")
	}
	said.Reset()
	n.repair()
	if said.Len() > 0 {
		t.Errorf("said again: %s", said)
	}

	if n.foreignTCX(t, a.link.HostIfName) {
		n.repair()
		if got := said.String(); !strings.Contains(got, "level=WARN") || !strings.Contains(got, "tcx program") {
			t.Errorf("a tcx program: the log says %s", got)
		}
	}

	n.restart()
	if out, err := n.Output("tc filter show dev " + a.link.HostIfName + " ingress"); err != nil || strings.Count(out, "somebody") != 2 {
		t.Errorf("%v: filters of the pod after a restart:\n%s", err, out)
	}
	n.cleanup()
	if out, err := n.Output("tc filter show dev eth0 ingress"); err != nil || !strings.Contains(out, "u32") || strings.Contains(out, "stentor") {
		t.Errorf("%v: filters of the uplink after cleanup:\n%s", err, out)
	}
	n.start()
}

// judges wants TCP to pass and nothing else.
func (n *node) judges(t *testing.T, from, to *pod) {
	t.Helper()
	for _, a := range to.addrs() {
		if err := from.Call("tcp", netip.AddrPortFrom(a, echoPort), 1000, nstest.Wait); err != nil {
			t.Errorf("allowed TCP to %s: %v", a, err)
		}
		refused(t, from.Namespace, "udp", netip.AddrPortFrom(a, echoPort))
	}
}
