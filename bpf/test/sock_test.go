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
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
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
		t.Run("NodePort", talkNodePort)
		t.Run("affinity", talkAffinity)
		t.Run("redirect", talkRedirect)
		t.Run("loopback", talkLoopback)
		t.Run("hint", talkHint)
		return
	}
	dir := filepath.Join(cgroupRoot(t), fmt.Sprintf("st-bpf-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	cookie := netnsCookie(t)
	n := newNode(t, config{abi.ConfigServices: uint8(1), abi.ConfigHostNetns: cookie, abi.ConfigBindProtection: uint8(1)})
	for name, at := range map[string]ebpf.AttachType{
		"sock_connect4": ebpf.AttachCGroupInet4Connect, "sock_connect6": ebpf.AttachCGroupInet6Connect,
		"sock_sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sock_sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
		"sock_recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "sock_recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
		"sock_post_bind4": ebpf.AttachCGroupInet4PostBind, "sock_post_bind6": ebpf.AttachCGroupInet6PostBind,
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
	n.put(abi.MapServices, abi.ServiceKey{VIP: mapped(vip4)}, abi.Service{Flags: abi.ServiceRest})
	for _, family := range []struct{ any, here string }{{"0.0.0.0", "127.0.0.1"}, {"::", "::1"}} {
		n.serve(frontend{family.any, nodePort, 6, abi.ScopeInternal, abi.Service{}, []string{family.here}})
	}
	n.serve(frontend{"0.0.0.0", nodePort + 9, 6, abi.ScopeInternal, abi.Service{Flags: abi.ServiceLocal}, []string{"127.0.0.1"}})
	n.put(abi.MapNodeAddrs, mapped(hostBIP4), uint32(2))
	first := n.first
	id := n.serve(frontend{"10.96.0.20", 80, 6, abi.ScopeInternal, abi.Service{Affinity: 60}, []string{"127.0.0.1", "127.0.0.2"}})
	for i := range uint32(2) {
		n.put(abi.MapAffinityBackends, abi.AffinityBackend{Service: id, Backend: first + i + 1}, uint32(1))
	}
	n.serve(frontend{"127.0.0.9", 80, 6, abi.ScopeInternal, abi.Service{Flags: abi.ServiceSkipped}, []string{"127.0.0.1"}})
	n.put(abi.MapServiceSkips, abi.ServiceSkip{VIP: mapped("127.0.0.9"), Netns: cookie, Port: ports(80), Protocol: 6}, uint32(1))
	n.serve(frontend{"127.0.0.8", 80, 6, abi.ScopeInternal, abi.Service{Flags: abi.ServiceSkipped}, []string{"127.0.0.1"}})
	n.serve(frontend{"127.0.0.7", 80, 6, abi.ScopeInternal, abi.Service{Kind: abi.ServiceHostPort, Flags: abi.ServiceLoopback}, []string{"127.0.0.1"}})
	// A frontend that only its hint knows; its hint in another one's place is not taken for that one's.
	hinted := n.serve(frontend{"10.96.0.30", 80, 6, abi.ScopeInternal, abi.Service{}, []string{"127.0.0.1"}})
	key := abi.ServiceKey{VIP: mapped("10.96.0.30"), Port: ports(80), Protocol: 6}
	var row abi.Service
	if err := n.maps[abi.MapServices].Lookup(key, &row); err != nil {
		t.Fatal(err)
	}
	if err := n.maps[abi.MapServices].Delete(key); err != nil {
		t.Fatal(err)
	}
	hint, _ := abi.Hint(hinted, row.First, row.Count)
	n.put(abi.MapServiceHints, abi.HintRow(key), hint)
	n.put(abi.MapServiceHints, abi.HintRow(abi.ServiceKey{VIP: mapped(vip4), Port: ports(80), Protocol: 6}), hint)
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

func netnsCookie(t *testing.T) uint64 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// greet listens and sends its own address to whoever comes.
func greet(t *testing.T, addr string) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", addr)
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
			io.WriteString(c, addr)
			c.Close()
		}
	}()
}

func hear(addr string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func talkNodePort(t *testing.T) {
	greet(t, "127.0.0.1:8080")
	greet(t, "[::1]:8080")
	for from, want := range map[string]string{
		"127.0.0.1:30080": "127.0.0.1:8080", "127.9.9.9:30080": "127.0.0.1:8080", "[::1]:30080": "[::1]:8080", hostBIP4 + ":30080": "127.0.0.1:8080",
	} {
		if got, err := hear(from); err != nil || got != want {
			t.Errorf("%s: reached %q, %v; want %s", from, got, err, want)
		}
	}
	if got, err := hear("127.0.0.1:30089"); err != nil || got != "127.0.0.1:8080" {
		t.Errorf("policy Local, loopback: reached %q, %v", got, err)
	}
	if got, err := hear(hostBIP4 + ":30089"); err == nil {
		t.Errorf("policy Local, another node's address: translated to %q, want it left to that node", got)
	}
	if l, err := net.Listen("tcp4", ":30089"); err == nil {
		l.Close()
		t.Error("policy Local: a socket of the host got the NodePort")
	}
	if _, err := hear("127.0.0.1:30081"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port without service: %v", err)
	}
	if _, err := hear(vip4 + ":82"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port that the virtual address does not have: %v", err)
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		if l, err := net.Listen(network, ":30080"); err == nil {
			l.Close()
			t.Errorf("%s: a socket of the host got the NodePort", network)
		}
		l, err := net.Listen(network, ":30081")
		if err != nil {
			t.Errorf("%s: a port that is no NodePort: %v", network, err)
			continue
		}
		l.Close()
	}
}

func talkAffinity(t *testing.T) {
	greet(t, "127.0.0.1:8080")
	greet(t, "127.0.0.2:8080")
	first, err := hear("10.96.0.20:80")
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if got, err := hear("10.96.0.20:80"); err != nil || got != first {
			t.Fatalf("got %q after %q, %v", got, first, err)
		}
	}
}

func talkRedirect(t *testing.T) {
	greet(t, "127.0.0.1:8080")
	greet(t, "127.0.0.9:80")
	if got, err := hear("127.0.0.9:80"); err != nil || got != "127.0.0.9:80" {
		t.Errorf("a namespace that a redirect skips: %q, %v", got, err)
	}
	if got, err := hear("127.0.0.8:80"); err != nil || got != "127.0.0.1:8080" {
		t.Errorf("a namespace that it does not skip: %q, %v", got, err)
	}
}

// A service on a loopback address is the host's: in a pod that address is the pod.
func talkLoopback(t *testing.T) {
	greet(t, "127.0.0.1:8080")
	for _, source := range []net.Addr{nil, &net.TCPAddr{IP: ip("127.0.0.3")}} {
		d := net.Dialer{LocalAddr: source}
		c, err := d.Dial("tcp", "127.0.0.7:80")
		if err != nil {
			t.Errorf("from %v: %v", source, err)
			continue
		}
		if b, err := io.ReadAll(c); string(b) != "127.0.0.1:8080" {
			t.Errorf("from %v: reached %q, %v", source, b, err)
		}
		c.Close()
	}
	inNetworkOfAPod(t, func() {
		if got, err := hear("127.0.0.7:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("in a pod: reached %q, %v", got, err)
		}
	})
}

// inNetworkOfAPod calls f in a network namespace of its own with the loopback
// up, where somebody serves what the host's frontends lead to.
func inNetworkOfAPod(t *testing.T, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine, and its namespace too
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Error(err)
			return
		}
		greet(t, "127.0.0.1:8080")
		f()
	}()
	<-done
}

func talkHint(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", "10.96.0.30:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != "10.96.0.30:80" {
		t.Errorf("getpeername says %s", got)
	}
}
