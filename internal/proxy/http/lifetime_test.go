// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestADrainLosesNoRequest(t *testing.T) {
	for name, client := range map[string]func(*testing.T) *nethttp.Client{"HTTP/1.1": clientOf, "HTTP/2": h2Client} {
		server := serverOf(t, echo)
		if name == "HTTP/2" {
			server = h2Server(t, echo)
		}
		old, next := through(t, server), through(t, server)
		// What the listener's takeover does: new connections go to the next proxy.
		var at atomic.Pointer[rig]
		at.Store(old)
		c := client(t)
		var dialled atomic.Int64
		c.Transport.(*nethttp.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
			dialled.Add(1)
			return net.Dial("tcp", at.Load().addr)
		}
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for j := range 200 {
					if i == 0 && j == 50 {
						at.Store(next)
						old.Drain()
					}
					res, err := c.Post("http://any/a", "text/plain", strings.NewReader("b"))
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					if text, _ := io.ReadAll(res.Body); res.StatusCode != 200 || string(text) != "POST /a b" {
						t.Errorf("%s: %d %q", name, res.StatusCode, text)
					}
					res.Body.Close()
				}
			})
		}
		all.Wait()
		a, b := len(old.records.await(t, 50)), len(next.records.await(t, 1))
		if a+b != 1600 || b < 100 {
			t.Errorf("%s: %d requests by the old proxy, %d by the next, %d connections", name, a, b, dialled.Load())
		}
	}
}

func TestTheEndOfTheContextEndsEveryConnection(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("connections", func(t *testing.T) { // its cleanup ends the context
		p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
			if head := readHead(r); strings.Contains(head, "Upgrade") {
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			} else if strings.HasPrefix(head, "GET /idle") {
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			}
			io.Copy(io.Discard, r)
		}))
		for _, text := range []string{
			"", "GET", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /idle HTTP/1.1\r\nHost: a\r\n\r\n", "GET /waits HTTP/1.1\r\nHost: a\r\n\r\n",
			"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		} {
			p.dial(t).send(text)
		}
		p.records.await(t, 2)
	})
}

func TestManyBadConnectionsDoNotDisturbAGoodOne(t *testing.T) {
	p := through(t, serverOf(t, echo), rule(`{"path":"/a"}`))
	good := p.dial(t)
	for i := range 1000 {
		c, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, smuggling[i%len(smuggling)].text[:min(20, len(smuggling[i%len(smuggling)].text))])
		if i%100 == 0 {
			good.send(fmt.Sprintf("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", 1000, strings.Repeat("x", 1000)))
			if code, _ := good.answer("POST"); code != 200 {
				t.Errorf("%d", code)
			}
		}
	}
}
