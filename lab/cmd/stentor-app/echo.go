// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

func runTCPEcho(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("tcp-echo", flag.ContinueOnError)
	addr := fs.String("listen", ":7", "address to listen on")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	l, err := listen(ctx, *addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	return serveEcho(ctx, l)
}

func serveEcho(ctx context.Context, l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func runUDPEcho(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("udp-echo", flag.ContinueOnError)
	addr := fs.String("listen", ":7", "address to listen on")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	c, err := listenUDP(ctx, *addr)
	if err != nil {
		return err
	}
	buf := make([]byte, 65536)
	for {
		n, answer, _, _, err := receive(c, buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		answer(buf[:n])
	}
}

// receive gets a datagram. The answer leaves from the address that was asked,
// which need not be the one that a host with several would choose; one that
// cannot be sent is lost like any other datagram.
func receive(c *net.UDPConn, buf []byte) (n int, answer func([]byte), from netip.AddrPort, how arrival, err error) {
	oob := make([]byte, 256)
	n, oobn, _, from, err := c.ReadMsgUDPAddrPort(buf, oob)
	if err != nil {
		return 0, nil, from, how, err
	}
	how = arrivalOf(oob[:oobn])
	return n, func(b []byte) { _, _, _ = c.WriteMsgUDPAddrPort(b, how.answerAs, from) }, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), how, nil
}

// listenUDP closes the socket when ctx ends.
func listenUDP(ctx context.Context, addr string) (*net.UDPConn, error) {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	c, err := net.ListenUDP("udp", a)
	if err != nil {
		return nil, err
	}
	// A busy machine must not look like a lossy network.
	_ = c.SetReadBuffer(4 << 20)
	tellArrivals(c)
	context.AfterFunc(ctx, func() { c.Close() })
	return c, nil
}

// exchange sends one message and prints one answer.
func exchange(ctx context.Context, network string, args []string) error {
	fs := flag.NewFlagSet(network, flag.ContinueOnError)
	data := fs.String("d", "hello", "what to send")
	size := fs.Int("size", 0, "send so many bytes instead")
	timeout := fs.Duration("timeout", 3*time.Second, "for the answer")
	local := fs.Int("local-port", 0, "source port")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if fs.NArg() != 1 {
		return exitCode{2, errors.New("want HOST:PORT")}
	}
	d := net.Dialer{Timeout: *timeout}
	d.SetMultipathTCP(false)
	if *local > 0 {
		if network == "udp" {
			d.LocalAddr = &net.UDPAddr{Port: *local}
		} else {
			d.LocalAddr = &net.TCPAddr{Port: *local}
		}
	}
	c, err := d.DialContext(ctx, network, fs.Arg(0))
	if err != nil {
		return exitCode{netCode(err), err}
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(*timeout)); err != nil {
		return err
	}
	msg := *data + "\n"
	if *size > 0 {
		msg = strings.Repeat("s", *size-1) + "\n"
	}
	if _, err := io.WriteString(c, msg); err != nil {
		return exitCode{netCode(err), err}
	}
	got, err := bufio.NewReaderSize(c, 65536).ReadString('\n')
	if err != nil {
		return exitCode{netCode(err), err}
	}
	if *size > 0 {
		fmt.Printf("%d bytes back\n", len(got))
		return nil
	}
	fmt.Print(got)
	return nil
}

func runTCPClient(ctx context.Context, args []string) error { return exchange(ctx, "tcp", args) }
func runUDPClient(ctx context.Context, args []string) error { return exchange(ctx, "udp", args) }
