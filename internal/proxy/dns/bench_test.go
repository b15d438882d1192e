// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/l7"
)

// quick answers every question with one address, by hand: it costs less than
// what is measured.
func quick(b *testing.B) netip.AddrPort {
	b.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	fd := descriptor(b, c)
	addr, err := unix.Getsockname(fd)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	var stop atomic.Bool
	go func() {
		defer close(done)
		in, out := newInbox(), newOutbox(fd, false, false, func() {})
		tail := []byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1}
		for !stop.Load() {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			_, _ = unix.Poll(poll, 50)
			n, _ := in.read(fd)
			for i := range n {
				q, _, _ := in.datagram(i)
				a := append(append(out.slot()[:0], q...), tail...)
				binary.BigEndian.PutUint16(a[2:], 0x8180)
				a[7] = 1
				out.commit(netip.AddrPort{}, len(a), &in.from[i])
			}
			out.flush()
		}
	}()
	b.Cleanup(func() { stop.Store(true); <-done; unix.Close(fd) })
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(addr.(*unix.SockaddrInet4).Port))
}

type discard struct{ n int }

func (d *discard) Record(*l7.Record) { d.n++ }

// fixed is a ruling that always holds, without a lock.
type fixed struct {
	ruling l7.Ruling
	thread int // that asked
}

func (f *fixed) Judge(l7.Connection) (l7.Ruling, error) {
	f.thread = unix.Gettid()
	return f.ruling, nil
}
func (f *fixed) Holds(_ l7.Connection, _ *l7.Ruling) bool { return true }

type instant struct{}

func (instant) Learn(context.Context, uint16, string, []netip.Addr, uint32) error { return nil }

// BenchmarkUDP passes questions and answers through the server. ns/op is of all
// that takes part; cpu-ns/query is the time of the thread that serves, system
// calls included, and queries/s what one core does in it.
func BenchmarkUDP(b *testing.B) {
	for _, c := range []struct {
		name   string
		ports  int // of clients, in turn
		flight int // questions of a port at once
		learn  bool
		raw    bool // answers as on a node; needs root
	}{
		{"16ports", 16, 16, false, false},
		{"16ports-raw", 16, 16, false, true},
		{"16ports-learned", 16, 16, true, false},
		{"1port-1question", 1, 1, false, false},
		{"256ports-1question", 256, 1, false, false},
		{"fresh-ports", 0, 1, false, false},
	} {
		b.Run(c.name, func(b *testing.B) { benchUDP(b, c.ports, c.flight, c.learn, c.raw) })
	}
}

func benchUDP(b *testing.B, ports, flight int, learn, raw bool) {
	recorder, judge := &discard{}, &fixed{}
	r := through(b, quick(b), `{"matchPattern":"*.example.com"}`, func(r *rig) {
		judge.ruling = r.judge.ruling
		r.Judge, r.Recorder, r.Learner = judge, recorder, nil
		if learn {
			r.Learner = instant{}
		}
		if raw {
			r.Sockets = rawLoopback{r.sockets}
		}
		r.Limits.Linger = 100 * time.Millisecond
	})
	query, err := question("www.example.com", miekg.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	clients := make([]*net.UDPConn, max(ports, 1))
	for i := range clients {
		clients[i] = dialUDP(b, r.addr)
	}
	buf := make([]byte, 512)
	round := func(n int) {
		for id := range n {
			binary.BigEndian.PutUint16(query, uint16(id))
			for _, c := range clients {
				if _, err := c.Write(query); err != nil {
					b.Fatal(err)
				}
			}
		}
		for range n {
			for _, c := range clients {
				if _, err := c.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	round(1)
	before := threadTime(b, judge.thread)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		if ports == 0 {
			clients[0].Close()
			clients[0] = dialUDP(b, r.addr)
		}
		n := min(flight, max(1, (b.N-done)/len(clients)))
		round(n)
		done += n * len(clients)
	}
	b.StopTimer()
	cpu := threadTime(b, judge.thread) - before
	for _, c := range clients {
		c.Close()
	}
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/query")
	b.ReportMetric(float64(b.N)/cpu.Seconds(), "queries/s")
}

func dialUDP(b *testing.B, addr string) *net.UDPConn {
	c, err := net.Dial("udp", addr)
	if err != nil {
		b.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		b.Fatal(err)
	}
	return c.(*net.UDPConn)
}

// threadTime is how long a thread of this process has run.
func threadTime(b *testing.B, thread int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/schedstat", thread))
	if err != nil {
		b.Fatal(err)
	}
	var ns int64
	if _, err := fmt.Sscan(string(text), &ns); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ns)
}
