// SPDX-License-Identifier: Apache-2.0

// Package probe tries to reach many targets at once and says how each went.
//
// A target is a URL:
//
//	http://HOST[:PORT]/PATH   an HTTP request
//	tcp://HOST:PORT           a line over TCP to an echo server
//	udp://HOST:PORT           a datagram to an echo server
//	ping://HOST               an ICMP echo
//
// Options stand in its fragment, as in a query: family=4 or 6 picks the
// addresses of a name, method=POST that of HTTP, size=N the bytes to send
// (HTTP: as the body of a request to /echo).
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Outcomes of a probe.
const (
	OK          = "ok"
	Timeout     = "timeout" // no answer at all
	Refused     = "refused"
	Unreachable = "unreachable" // the network said so
	NoName      = "no name"
	Status      = "status" // HTTP, 400 and above
	Failed      = "failed" // anything else
)

// Result says how one target was reached.
type Result struct {
	Target  string  `json:"target"`
	Outcome string  `json:"outcome"`
	Status  int     `json:"status,omitempty"` // of HTTP
	Body    string  `json:"body,omitempty"`   // of HTTP; at most maxBody bytes
	Bytes   int     `json:"bytes,omitempty"`  // that came back
	Error   string  `json:"error,omitempty"`
	MS      float64 `json:"ms"`
}

const maxBody = 1024

// Ping sends one ICMP echo of size bytes to ip and waits for its answer.
type Ping func(ip *net.IPAddr, size int, wait time.Duration) error

// Run tries all targets at the same time, each for at most the timeout, and
// returns the results in the targets' order.
func Run(ctx context.Context, targets []string, timeout time.Duration, ping Ping) []Result {
	out := make([]Result, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			start := time.Now()
			r := Result{Target: t}
			err := r.try(ctx, ping)
			r.MS = float64(time.Since(start).Microseconds()) / 1000
			if err != nil {
				r.Error = err.Error()
			}
			if r.Outcome == "" {
				r.Outcome = Outcome(err)
			}
			out[i] = r
		})
	}
	wg.Wait()
	return out
}

func (r *Result) try(ctx context.Context, ping Ping) error {
	u, err := url.Parse(r.Target)
	if err != nil {
		return err
	}
	options, err := url.ParseQuery(u.Fragment)
	if err != nil {
		return err
	}
	u.Fragment = ""
	size := 0
	if s := options.Get("size"); s != "" {
		if size, err = strconv.Atoi(s); err != nil || size < 1 {
			return fmt.Errorf("size %q: want a number above 0", s)
		}
	}
	family := options.Get("family")
	switch u.Scheme {
	case "http":
		return r.http(ctx, u, family, options.Get("method"), size)
	case "tcp", "udp":
		return r.echo(ctx, u.Scheme+family, u.Host, size)
	case "ping":
		ip, err := net.DefaultResolver.LookupIP(ctx, "ip"+family, strings.Trim(u.Host, "[]"))
		if err != nil {
			return err
		}
		deadline, _ := ctx.Deadline()
		return ping(&net.IPAddr{IP: ip[0]}, max(size, 56), time.Until(deadline))
	}
	return fmt.Errorf("scheme %q: want http, tcp, udp or ping", u.Scheme)
}

func dialer() *net.Dialer {
	d := &net.Dialer{FallbackDelay: -1}
	// Go's default, MPTCP, is another socket to the kernel and to BPF.
	d.SetMultipathTCP(false)
	return d
}

func (r *Result) http(ctx context.Context, u *url.URL, family, method string, size int) error {
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if size > 0 {
		body = strings.NewReader(strings.Repeat("s", size))
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return err
	}
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, network+family, addr)
		},
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	r.Status, r.Bytes = resp.StatusCode, len(got)
	r.Body = strings.TrimSpace(string(got[:min(len(got), maxBody)]))
	if resp.StatusCode >= 400 {
		r.Outcome = Status
	}
	if size > 0 && len(got) != size {
		return fmt.Errorf("%d bytes came back of %d", len(got), size)
	}
	return nil
}

func (r *Result) echo(ctx context.Context, network, addr string, size int) error {
	c, err := dialer().DialContext(ctx, network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	size = max(size, 8)
	errs := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte(strings.Repeat("s", size-1) + "\n"))
		errs <- err
	}()
	buf := make([]byte, size)
	if strings.HasPrefix(network, "udp") {
		r.Bytes, err = c.Read(buf)
	} else {
		r.Bytes, err = io.ReadFull(c, buf)
	}
	if err == nil && r.Bytes != size {
		err = fmt.Errorf("%d bytes came back of %d", r.Bytes, size)
	}
	select {
	case werr := <-errs:
		return errors.Join(err, werr)
	default:
		return err
	}
}

// Outcome names what an attempt to reach something ended with.
func Outcome(err error) string {
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return OK
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return Unreachable
	case errors.As(err, &dns):
		return NoName
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	}
	return Failed
}
