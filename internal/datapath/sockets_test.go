// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/service"
)

// aborted waits until the socket's program is told, and says with what.
func aborted(c net.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(nstest.Wait))
	for {
		if _, err := c.Read(make([]byte, 64)); err != nil {
			return err
		}
	}
}

// alive tells whether the socket is still connected.
func alive(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now())
	_, err := c.Read(make([]byte, 64))
	return !errors.Is(err, unix.ECONNABORTED)
}

func TestSocketsToBackendsThatHaveGoneAreClosed(t *testing.T) {
	nstest.RequireRoot(t)
	cgroup := joinCgroup(t)
	c := newCluster(t, true)
	n := c.nodes[0]
	n.cfg.SocketLB, n.cfg.CgroupRoot = true, cgroup
	n.restart()
	client, stays, goes := n.pod(), n.pod(), n.pod()
	echo(t, stays.Namespace)
	echo(t, goes.Namespace)
	set := func(pods ...*pod) {
		t.Helper()
		if err := n.dp.SetFrontends(frontends(pods...)); err != nil {
			t.Fatal(err)
		}
	}
	dial := func(from *nstest.Namespace, network string, to netip.AddrPort) net.Conn {
		t.Helper()
		conn, err := from.Dial(network, to, nstest.Wait)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := nstest.Exchange(conn, 100, nstest.Wait); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	closeStale := func(tcp bool, want ClosedSockets) {
		t.Helper()
		n.Do(func() {
			got, _, err := n.dp.CloseStaleSockets([]string{client.Path, "/run/netns/not-there"}, tcp)
			if errors.Is(err, ErrNoSocketClose) {
				t.Skip(err)
			}
			if err != nil || got != want {
				t.Errorf("closed %+v, %v; want %+v", got, err, want)
			}
		})
	}
	set(goes)
	closeStale(true, ClosedSockets{})
	var doomed, streams, spared []net.Conn
	for family, vip := range vips {
		to := netip.AddrPortFrom(vip, vipPort)
		doomed = append(doomed, dial(client.Namespace, "udp", to), dial(n.Namespace, "udp", to))
		streams = append(streams, dial(client.Namespace, "tcp", to), dial(n.Namespace, "tcp", to))
		// Whoever speaks to the pod itself goes on, and so does whoever has another backend.
		spared = append(spared, dial(client.Namespace, "udp", netip.AddrPortFrom(goes.addrs()[family], echoPort)),
			dial(client.Namespace, "tcp", netip.AddrPortFrom(goes.addrs()[family], echoPort)))
	}
	set(stays)
	for _, vip := range vips {
		spared = append(spared, dial(client.Namespace, "udp", netip.AddrPortFrom(vip, vipPort)))
	}
	closeStale(false, ClosedSockets{UDP: len(doomed)})
	for i, conn := range doomed {
		if err := aborted(conn); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("UDP socket %d: %v, want that it was aborted", i, err)
		}
	}
	for i, conn := range append(spared, streams...) {
		if !alive(conn) {
			t.Errorf("socket %d is closed although nothing is wrong with it", i)
		}
	}
	// The second look finds who was connecting at the first one, and TCP if asked for.
	closeStale(true, ClosedSockets{TCP: len(streams)})
	for i, conn := range streams {
		if err := aborted(conn); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("TCP socket %d: %v, want that it was aborted", i, err)
		}
	}
	closeStale(true, ClosedSockets{})
	// A backend that comes back before anybody looked keeps its sockets.
	keeps := dial(client.Namespace, "udp", netip.AddrPortFrom(vips[0], vipPort))
	set(goes)
	set(stays)
	closeStale(true, ClosedSockets{})
	if !alive(keeps) {
		t.Error("a backend that came back lost its socket")
	}
}

// A redirect sends every pod of the node, and the node, to its pod; that one
// reaches the Service's own backend under the same address.
func TestARedirectSendsAllButItsOwnPod(t *testing.T) {
	nstest.RequireRoot(t)
	cgroup := joinCgroup(t)
	c := newCluster(t, true)
	n := c.nodes[0]
	n.cfg.SocketLB, n.cfg.CgroupRoot = true, cgroup
	n.restart()
	client, cache, origin := n.pod(), n.pod(), n.pod()
	atCache, atOrigin := echo(t, cache.Namespace), echo(t, origin.Namespace)
	cookie, err := n.dp.NetNSCookie(cache.Path)
	if err != nil {
		t.Fatal(err)
	}
	redirected := frontends(cache)
	for i := range redirected {
		redirected[i].Kind, redirected[i].Redirect, redirected[i].SkipNetNS = service.LocalRedirect, "default/cache", []uint64{cookie}
	}
	calls := func(from *nstest.Namespace) {
		t.Helper()
		for _, vip := range vips {
			for _, network := range []string{"tcp", "udp"} {
				if err := from.Call(network, netip.AddrPortFrom(vip, vipPort), 100, nstest.Wait); err != nil {
					t.Errorf("%s to %s: %v", network, vip, err)
				}
			}
		}
	}
	if err := n.dp.SetFrontends(redirected); err != nil {
		t.Fatal(err)
	}
	calls(client.Namespace)
	calls(n.Namespace)
	if len(atOrigin()) != 0 || len(atCache()) == 0 {
		t.Errorf("%d calls at the cache, %d at the Service's own backend", len(atCache()), len(atOrigin()))
	}
	// What the cache asks is left alone, at the socket and in the packet: nobody here
	// has the address then.
	before := len(atCache())
	for _, vip := range vips {
		if err := cache.Call("udp", netip.AddrPortFrom(vip, vipPort), 100, 300*time.Millisecond); err == nil {
			t.Errorf("the cache got an answer from %s", vip)
		}
	}
	if got := len(atCache()); got != before {
		t.Error("the cache was sent to itself")
	}
}
