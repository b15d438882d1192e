// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/ping"
)

// Try carries out one request.
func Try(ctx context.Context, r Request) Answer {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+r.Duration)
	defer cancel()
	a := Answer{Outcome: OK}
	start := time.Now()
	var err error
	switch r.Kind {
	case HTTP:
		err = get(ctx, r, &a)
	case Connect:
		var c net.Conn
		if c, err = dial(ctx, r, "tcp"); err == nil {
			c.Close()
		}
	case TCP:
		err = tcpEcho(ctx, r)
	case UDP:
		err = udpEchoOf(ctx, r)
	case Ping:
		err = pingOnce(ctx, r)
	case Resolve:
		a.Addresses, err = resolve(ctx, r)
	case FullMTU:
		a.Size, err = fullMTU(ctx, r)
	case RoundTrips, Connections, Stream:
		a.Measure, err = measure(ctx, r)
	default:
		err = fmt.Errorf("no kind of probe is called %q: are both programs of the same version?", r.Kind)
	}
	a.ID, a.Latency = r.ID, time.Since(start)
	if err != nil {
		a.Outcome, a.Error = outcome(err), words(err)
	}
	return a
}

// words of an error without the addresses that whoever asked knows.
func words(err error) string {
	var web *url.Error
	if errors.As(err, &web) {
		err = web.Err
	}
	if op, ok := err.(*net.OpError); ok { // not errors.As: what was said around it stays
		err = op.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return os.ErrDeadlineExceeded.Error()
	}
	return err.Error()
}

func outcome(err error) string {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns) && !dns.IsTimeout:
		return Unresolved
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return Unreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	}
	return Broken
}

func (r Request) network(base string) string {
	if r.Family != 0 {
		return base + strconv.Itoa(r.Family)
	}
	return base
}

func (r Request) address() string { return net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))) }

func dial(ctx context.Context, r Request, network string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, r.network(network), r.address())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	return c, nil
}

func get(ctx context.Context, r Request, a *Answer) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, r, "tcp") },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.address()+"/", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var who Who
	if err := json.NewDecoder(resp.Body).Decode(&who); err != nil {
		return nil // some other server answers: it is reached
	}
	a.Server, a.Source = who.Name, who.Source
	return nil
}

// pattern is data of which no part is like another.
func pattern(n int) []byte {
	b := make([]byte, n)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, seed))
	for i := 0; i < n; i += 8 {
		var word [8]byte
		v := r.Uint64()
		for j := range word {
			word[j] = byte(v >> (8 * j))
		}
		copy(b[i:], word[:])
	}
	return b
}

func tcpEcho(ctx context.Context, r Request) error {
	c, err := dial(ctx, r, "tcp")
	if err != nil {
		return err
	}
	defer c.Close()
	sent := pattern(max(r.Size, 1))
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("%d of %d bytes came back: %w", n, len(sent), err)
	}
	if err := <-wrote; err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("other bytes came back than were sent")
	}
	return nil
}

// udpAgain is how long a datagram gets before it is sent again: networks may
// lose one now and then.
const udpAgain = 700 * time.Millisecond

func udpEchoOf(ctx context.Context, r Request) error {
	c, err := dial(ctx, r, "udp")
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(ctx, c, pattern(max(r.Size, 1)))
}

func exchange(ctx context.Context, c net.Conn, sent []byte) error {
	end, _ := ctx.Deadline()
	got := make([]byte, 1<<16)
	for {
		if _, err := c.Write(sent); err != nil {
			return err
		}
		wait := time.Now().Add(udpAgain)
		if wait.After(end) {
			wait = end
		}
		_ = c.SetReadDeadline(wait)
		n, err := c.Read(got)
		switch {
		case err == nil && bytes.Equal(sent, got[:n]):
			return nil
		case err == nil:
			return fmt.Errorf("other bytes came back than were sent: %d instead of %d", n, len(sent))
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end):
			continue
		}
		return err
	}
}

// fullMTU sends a datagram as large as the route allows and forbids to cut it.
func fullMTU(ctx context.Context, r Request) (int, error) {
	c, err := dial(ctx, r, "udp")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	four := c.RemoteAddr().(*net.UDPAddr).IP.To4() != nil
	var mtu int
	var serr error
	err = raw.Control(func(fd uintptr) {
		if four {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
			mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
			return
		}
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
	})
	if err := errors.Join(err, serr); err != nil {
		return 0, fmt.Errorf("forbid fragments: %w", err)
	}
	headers := 20 + 8
	if !four {
		headers = 40 + 8
	}
	if mtu <= headers || mtu > 1<<16 {
		mtu = 1280
	}
	if err := exchange(ctx, c, pattern(mtu-headers)); err != nil {
		return mtu, fmt.Errorf("a packet of %d bytes, the MTU of the route: %w", mtu, err)
	}
	return mtu, nil
}

func resolve(ctx context.Context, r Request) (out []string, err error) {
	resolver := &net.Resolver{PreferGo: true}
	ips, err := resolver.LookupNetIP(ctx, r.network("ip"), r.Host)
	for _, ip := range ips {
		out = append(out, ip.Unmap().String())
	}
	return out, err
}

func pingOnce(ctx context.Context, r Request) error {
	dst, err := net.DefaultResolver.LookupNetIP(ctx, r.network("ip"), r.Host)
	if err != nil {
		return err
	}
	return ping.Echo(ctx, dst[0].Unmap(), r.Size)
}
