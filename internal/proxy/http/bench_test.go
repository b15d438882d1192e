// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stentor-net/stentor/internal/l7"
)

const benchHead = "POST /v1/request-landing HTTP/1.1\r\nHost: deathstar.default.svc.cluster.local\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"

func BenchmarkHead(b *testing.B) {
	var h head
	text := []byte(benchHead)
	b.ReportAllocs()
	for b.Loop() {
		if headEnd(text, 0) == 0 || h.parseRequest(text, nil) != nil {
			b.Fatal("refused")
		}
	}
}

// counter takes records as cheaply as can be.
type counter struct{ n int }

func (c *counter) Record(*l7.Record) { c.n++ }

// BenchmarkRecord is what a record costs until the recorder has it.
func BenchmarkRecord(b *testing.B) {
	c := &conn{srv: &Server{Recorder: &counter{}}}
	w := c.busy()
	if err := w.req.parseRequest([]byte(benchHead), nil); err != nil {
		b.Fatal(err)
	}
	paths := [2][]byte{[]byte("/v1/request-landing"), []byte("/v1/request-another")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.req.path = paths[i&1]
		c.begin(w)
		c.finish(w, 200, 1)
	}
}

// listen does without what the sockets of a transparent proxy do without:
// multipath TCP, and keepalives beside those of the two ends.
func listen() (net.Listener, error) {
	plain := net.ListenConfig{KeepAlive: -1}
	plain.SetMultipathTCP(false)
	return plain.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

type dialPlain string

func (d dialPlain) Dial(ctx context.Context, _ l7.Connection) (net.Conn, error) {
	return (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", string(d))
}

// answering is a server that answers every head with size bytes.
func answering(t testing.TB, size int) string {
	l, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + strings.Repeat("x", size))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4<<10)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// benched is a proxy to a server, with an access log.
func benched(t testing.TB, server string) string {
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	set, err := l7.Compile(7, []string{rule(`{"method":"POST","path":"/v1/request-landing"}`)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Judge: &fakeJudge{ruling: l7.Ruling{Limits: []l7.Limit{{Set: 7}}}}, Rules: fakeRules{7: set}, Dialer: dialPlain(server), Recorder: &logger{out: bufio.NewWriterSize(file, 64<<10)}}
	l, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				s.Serve(ctx, conn, l7.Connection{Client: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), Server: netip.MustParseAddrPort(server), Protocol: 6})
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); all.Wait() })
	return l.Addr().String()
}

func BenchmarkRequest(b *testing.B) {
	for _, size := range []int{0, 1 << 10, 10 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c, err := net.Dial("tcp", benched(b, answering(b, size)))
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReaderSize(c, 32<<10)
			head := []byte(benchHead)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(head); err != nil {
					b.Fatal(err)
				}
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						b.Fatal(err)
					}
					if len(line) == 2 {
						break
					}
				}
				if _, err := r.Discard(size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkIdleConnections reports the memory of the process for a connection
// that rests after a request: ours and the sockets' four ends in Go.
func BenchmarkIdleConnections(b *testing.B) {
	const count = 4500 // four files each, in one process
	for b.Loop() {
		server := benched(b, answering(b, 1<<10))
		conns := make([]net.Conn, 0, count)
		base := resident(b)
		for range count {
			c, err := net.Dial("tcp", server)
			if err != nil {
				b.Fatal(err)
			}
			io.WriteString(c, benchHead)
			if _, err := io.ReadFull(c, make([]byte, 1<<10)); err != nil {
				b.Fatal(err)
			}
			conns = append(conns, c)
		}
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(resident(b)-base)/count, "B-resident/conn")
		b.ReportMetric(float64(m.StackInuse)/count, "B-stack/conn")
		b.ReportMetric(float64(m.HeapInuse)/count, "B-heap/conn")
		for _, c := range conns {
			c.Close()
		}
	}
}

// resident is the process's memory in bytes.
func resident(b *testing.B) int {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}
