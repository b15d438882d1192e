// SPDX-License-Identifier: Apache-2.0

package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

const inCgroup = "STENTOR_BPF_TEST_CGROUP"

// cgroupRoot returns where cgroup v2 is mounted.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Skip("no cgroup v2 is mounted")
	return ""
}

// TestSocketsReachServices repeats itself in a cgroup with the programs attached
// and talks there through real sockets.
func TestSocketsReachServices(t *testing.T) {
	requireRoot(t)
	if os.Getenv(inCgroup) != "" {
		t.Run("TCP", talkTCP)
		t.Run("UDP", talkUDP)
		t.Run("refused", talkRefused)
		return
	}
	dir := filepath.Join(cgroupRoot(t), fmt.Sprintf("st-bpf-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	n := newNode(t, nil)
	for name, at := range map[string]ebpf.AttachType{
		"sock_connect4": ebpf.AttachCGroupInet4Connect, "sock_connect6": ebpf.AttachCGroupInet6Connect,
		"sock_sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sock_sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
		"sock_recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "sock_recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
		"sock_getpeername4": ebpf.AttachCgroupInet4GetPeername, "sock_getpeername6": ebpf.AttachCgroupInet6GetPeername,
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: at, Program: n.prog(name)})
		if err != nil {
			t.Fatalf("attach %s: %v", name, err)
		}
		defer l.Close()
	}
	for _, protocol := range []uint8{6, 17} {
		n.addService(vip4, 80, protocol, 18080, "127.0.0.1")
		n.addService(vip6, 80, protocol, 18080, "::1")
	}
	n.addService(vip4, 81, 6, 18080)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	fd, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSocketsReachServices$", "-test.v")
	cmd.Env = append(os.Environ(), inCgroup+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestSocketsReachServices/TCP") {
		t.Fatalf("in the cgroup: %v\n%s", err, out)
	}
}

// Families and the mixed case: an IPv6 socket that speaks IPv4.
var dials = []struct{ name, network, target, peer string }{
	{"IPv4", "4", vip4, "127.0.0.1"},
	{"IPv6", "6", vip6, "::1"},
}

func talkTCP(t *testing.T) {
	for _, d := range dials {
		t.Run(d.name, func(t *testing.T) {
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			l, err := lc.Listen(t.Context(), "tcp"+d.network, net.JoinHostPort(d.peer, "18080"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := l.Accept()
				if err == nil {
					io.WriteString(c, "hello")
					c.Close()
				}
			}()
			c, err := net.Dial("tcp"+d.network, net.JoinHostPort(d.target, "80"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
				t.Errorf("read %q, %v", b, err)
			}
			if got := c.RemoteAddr().String(); got != net.JoinHostPort(d.target, "80") {
				t.Errorf("getpeername says %s", got)
			}
		})
	}
	t.Run("IPv4 of an IPv6 socket", func(t *testing.T) {
		l, err := net.Listen("tcp4", "127.0.0.1:18080")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(s)
		to := &syscall.SockaddrInet6{Port: 80, Addr: netip.MustParseAddr(vip4).As16()}
		if err := syscall.Connect(s, to); err != nil {
			t.Fatalf("connect: %v", err)
		}
		peer, err := syscall.Getpeername(s)
		if err != nil {
			t.Fatal(err)
		}
		if p := peer.(*syscall.SockaddrInet6); p.Addr != to.Addr || p.Port != 80 {
			t.Errorf("getpeername says %v", p)
		}
	})
}

func talkUDP(t *testing.T) {
	for _, d := range dials {
		t.Run(d.name, func(t *testing.T) {
			server, err := net.ListenPacket("udp"+d.network, net.JoinHostPort(d.peer, "18080"))
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			go func() {
				b := make([]byte, 16)
				for {
					n, from, err := server.ReadFrom(b)
					if err != nil {
						return
					}
					server.WriteTo(b[:n], from)
				}
			}()
			to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(d.target), 80))
			connected, err := net.DialUDP("udp"+d.network, nil, to)
			if err != nil {
				t.Fatal(err)
			}
			defer connected.Close()
			loose, err := net.ListenPacket("udp"+d.network, "")
			if err != nil {
				t.Fatal(err)
			}
			defer loose.Close()
			b := make([]byte, 16)
			if _, err := connected.Write([]byte("one")); err != nil {
				t.Fatal(err)
			}
			if n, err := connected.Read(b); err != nil || string(b[:n]) != "one" {
				t.Errorf("connected: %q, %v", b[:n], err)
			}
			if _, err := loose.WriteTo([]byte("two"), to); err != nil {
				t.Fatal(err)
			}
			n, from, err := loose.ReadFrom(b)
			if err != nil || string(b[:n]) != "two" || from.String() != to.String() {
				t.Errorf("unconnected: %q from %v, %v", b[:n], from, err)
			}
		})
	}
}

func talkRefused(t *testing.T) {
	_, err := net.Dial("tcp4", net.JoinHostPort(vip4, "81"))
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a service without backends: %v", err)
	}
}
