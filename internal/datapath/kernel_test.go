// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
)

const (
	proxyPort = 15001
	proxyMark = 0x200
)

// TestTheKernelHandsConnectionsToAProxy asks the kernel, not our programs, for
// what redirects to a proxy stand on: a classifier program gives the packets of
// somebody else's connection to a transparent socket.
func TestTheKernelHandsConnectionsToAProxy(t *testing.T) {
	nstest.RequireRoot(t)
	client, proxy := nstest.New(t, "cli"), nstest.New(t, "prx")
	proxy.Run(t, fmt.Sprintf(`ip link add eth0 type veth peer name eth0 netns %s
		ip link set eth0 up
		ip addr add 172.31.0.1/24 dev eth0
		ip addr add fd31::1/64 dev eth0 nodad
		ip rule add fwmark %d lookup 2004
		ip -6 rule add fwmark %[2]d lookup 2004
		ip route add local 0.0.0.0/0 dev lo table 2004
		ip -6 route add local ::/0 dev lo table 2004`, client.Name, proxyMark))
	client.Run(t, `ip link set eth0 up
		ip addr add 172.31.0.2/24 dev eth0
		ip addr add fd31::2/64 dev eth0 nodad
		ip route add default via 172.31.0.1
		ip -6 route add default via fd31::1`)
	for _, x := range []struct {
		family, listen string
		server         netip.AddrPort // nobody has this address
		program        asm.Instructions
	}{
		{"IPv4", "127.0.0.1", netip.MustParseAddrPort("198.51.100.7:80"), assign(unix.ETH_P_IP, 23, 26, 4)},
		{"IPv6", "::1", netip.MustParseAddrPort("[2001:db8::7]:80"), assign(unix.ETH_P_IPV6, 20, 22, 16)},
	} {
		t.Run(x.family, func(t *testing.T) {
			seen := listenTransparent(t, proxy, x.listen)
			refused(t, client, "tcp", x.server)
			filter(t, proxy, x.program)
			if err := client.Call("tcp", x.server, 100000, nstest.Wait); err != nil {
				t.Fatal(err)
			}
			if got := <-seen; got != x.server {
				t.Errorf("the proxy's socket says that it is %s, want the server %s", got, x.server)
			}
		})
	}
}

// assign is a classifier that gives TCP packets to the socket of their tuple, or
// else to the one that listens on the proxy's port of the loopback address. It
// wants packets without options; the numbers are offsets in the frame and the
// length of an address.
func assign(etherType uint16, protocol, tuple, addr int32) asm.Instructions {
	const netns = -1 // of the device
	size := 2*addr + 4
	at := int16(-size)
	look := func(next string) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, int32(at)),
			asm.Mov.Imm(asm.R3, size), asm.Mov.Imm(asm.R4, netns), asm.Mov.Imm(asm.R5, 0),
			asm.FnSkcLookupTcp.Call(), asm.JNE.Imm(asm.R0, 0, next),
		}
	}
	out := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R6, 16, asm.Word), // protocol
		asm.JNE.Imm(asm.R1, int32(htons(etherType)), "out"),
		// Protocol and tuple are read as they lie in the frame.
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, protocol), asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, int32(at)),
		asm.Mov.Imm(asm.R4, 1), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.R10, at, asm.Byte), asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "out"),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, tuple), asm.Mov.Reg(asm.R3, asm.R10), asm.Add.Imm(asm.R3, int32(at)),
		asm.Mov.Imm(asm.R4, size), asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, "out"),
	}
	out = append(out, look("found")...)
	for i := int16(0); i < int16(addr); i += 4 { // the loopback address, and the port
		word := int64(0)
		if addr == 4 {
			word = int64(htonl(0x7f000001))
		} else if i == 12 {
			word = int64(htonl(1))
		}
		out = append(out, asm.StoreImm(asm.R10, at+int16(addr)+i, word, asm.Word))
	}
	out = append(out, asm.StoreImm(asm.R10, at+int16(2*addr)+2, int64(htons(proxyPort)), asm.Half))
	out = append(out, look("found")...)
	return append(out,
		asm.Ja.Label("out"),
		asm.Mov.Reg(asm.R7, asm.R0).WithSymbol("found"),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.R7), asm.Mov.Imm(asm.R3, 0), asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7), asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R1, proxyMark), asm.StoreMem(asm.R6, 8, asm.R1, asm.Word), // mark
		asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return())
}

// filter puts a program on the ingress of eth0.
func filter(t *testing.T, n *nstest.Namespace, code asm.Instructions) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer prog.Close()
	n.Do(func() {
		var l netlink.Link
		if l, err = netlink.LinkByName("eth0"); err != nil {
			return
		}
		if err = netlink.QdiscReplace(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}); err != nil {
			return
		}
		err = netlink.FilterReplace(&netlink.BpfFilter{Fd: prog.FD(), Name: "probe", DirectAction: true, FilterAttrs: netlink.FilterAttrs{
			LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// listenTransparent is the proxy: it echoes, and tells the address that each
// connection has on its side.
func listenTransparent(t *testing.T, n *nstest.Namespace, host string) <-chan netip.AddrPort {
	t.Helper()
	own := make(chan netip.AddrPort, 8)
	var l net.Listener
	var err error
	n.Do(func() {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			if e := c.Control(func(fd uintptr) {
				if err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1); err != nil {
					err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
				}
			}); e != nil {
				return e
			}
			return err
		}}
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), "tcp", net.JoinHostPort(host, fmt.Sprint(proxyPort)))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			own <- netip.MustParseAddrPort(c.LocalAddr().String())
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return own
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func htonl(v uint32) uint32 {
	return binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, v))
}
