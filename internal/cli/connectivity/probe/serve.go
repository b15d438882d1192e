// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// Ports of the servers, counted from the first one.
const (
	HTTPPort   = 0 // HTTP
	EchoPort   = 1 // TCP and UDP: what comes goes back
	StreamPort = 2 // TCP: what comes is swallowed
	portCount  = 3
)

// Who is what the HTTP server says.
type Who struct {
	Name   string `json:"name"`
	Source string `json:"source"`
}

// Serve runs all servers on all addresses until ctx ends. First is the lowest of
// their ports.
func Serve(ctx context.Context, name string, first uint16) error {
	var tcp [portCount]net.Listener
	for i := range tcp {
		l, err := listen(ctx, first+uint16(i))
		if err != nil {
			return err
		}
		defer l.Close()
		tcp[i] = l
	}
	g, ctx := errgroup.WithContext(ctx)
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		w.Header().Set("Connection", "close")
		_ = json.NewEncoder(w).Encode(Who{Name: name, Source: host}) // a client that went away hears nothing
	})}
	g.Go(func() error { return srv.Serve(tcp[HTTPPort]) })
	g.Go(func() error { return accept(tcp[EchoPort], func(c net.Conn) { _, _ = io.Copy(c, c) }) })
	g.Go(func() error { return accept(tcp[StreamPort], swallow) })
	conns, err := listenUDP(ctx, first+EchoPort)
	if err != nil {
		return err
	}
	for _, c := range conns {
		g.Go(func() error { return c.echo() })
	}
	g.Go(func() error {
		<-ctx.Done()
		srv.Close()
		for _, l := range tcp {
			l.Close()
		}
		for _, c := range conns {
			c.close()
		}
		return context.Cause(ctx)
	})
	err = g.Wait()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func listen(ctx context.Context, port uint16) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
}

func accept(l net.Listener, serve func(net.Conn)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

// swallow reads to the end and tells how much it was.
func swallow(c net.Conn) {
	n, err := io.Copy(io.Discard, c)
	if err == nil {
		fmt.Fprintln(c, n)
	}
}

// udpEcho answers from the address that was asked: a host has many.
type udpEcho struct {
	conn net.PacketConn
	v4   *ipv4.PacketConn
	v6   *ipv6.PacketConn
}

func listenUDP(ctx context.Context, port uint16) (out []*udpEcho, err error) {
	var c net.ListenConfig
	address := net.JoinHostPort("", strconv.Itoa(int(port)))
	for _, network := range []string{"udp4", "udp6"} {
		conn, lerr := c.ListenPacket(ctx, network, address)
		if lerr != nil {
			err = errors.Join(err, lerr) // a host without the family
			continue
		}
		e := &udpEcho{conn: conn}
		if network == "udp4" {
			e.v4 = ipv4.NewPacketConn(conn)
			lerr = e.v4.SetControlMessage(ipv4.FlagDst, true)
		} else {
			e.v6 = ipv6.NewPacketConn(conn)
			lerr = e.v6.SetControlMessage(ipv6.FlagDst, true)
		}
		if lerr != nil {
			return nil, lerr
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, err
	}
	return out, nil
}

func (e *udpEcho) close() { e.conn.Close() }

func (e *udpEcho) echo() error {
	b := make([]byte, 1<<16)
	for {
		var err error
		if e.v4 != nil {
			err = e.once4(b)
		} else {
			err = e.once6(b)
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}

func (e *udpEcho) once4(b []byte) error {
	n, cm, from, err := e.v4.ReadFrom(b)
	if err != nil {
		return err
	}
	var as *ipv4.ControlMessage
	if cm != nil {
		as = &ipv4.ControlMessage{Src: cm.Dst}
	}
	_, err = e.v4.WriteTo(b[:n], as, from)
	return err
}

func (e *udpEcho) once6(b []byte) error {
	n, cm, from, err := e.v6.ReadFrom(b)
	if err != nil {
		return err
	}
	var as *ipv6.ControlMessage
	if cm != nil {
		as = &ipv6.ControlMessage{Src: cm.Dst}
	}
	_, err = e.v6.WriteTo(b[:n], as, from)
	return err
}
