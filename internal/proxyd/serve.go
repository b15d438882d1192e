// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/stentor-net/stentor/internal/file"
	"github.com/stentor-net/stentor/internal/l7"
)

const protocolTCP = 6

// accept serves what a listener gets until it is closed.
func (p *proxy) accept(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Too many open files, or a connection that went before it was
			// accepted: neither ends the listener.
			if !errors.Is(err, syscall.ECONNABORTED) {
				p.log.Warn("a connection is not accepted", "error", err)
				select {
				case <-time.After(acceptAgain):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			continue
		}
		p.conns.add(conn)
		p.serving.Go(func() {
			defer p.conns.remove(conn)
			p.serve(ctx, conn)
		})
	}
}

// acceptAgain is the pause after a failure to accept.
const acceptAgain = 20 * time.Millisecond

// serve finds out what a connection is under, and has it served.
func (p *proxy) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	c := l7.Connection{Client: addrPort(conn.RemoteAddr()), Server: addrPort(conn.LocalAddr()), Protocol: protocolTCP}
	ruling, err := p.kernel.Judge(c)
	if err != nil || ruling.Denied { // nobody sent it, or it was allowed no longer
		p.log.Debug("a connection is refused", "client", c.Client, "server", c.Server, "error", err)
		reset(conn)
		return
	}
	switch p.protocol(&ruling) {
	case l7.None:
		p.relay(ctx, conn, c, ruling)
	case l7.ProtocolHTTP:
		if err := p.http.Serve(ctx, conn, c); err != nil {
			p.log.Debug("a connection ends", "client", c.Client, "server", c.Server, "error", err)
		}
	case l7.ProtocolDNS:
		if err := p.dns.Serve(ctx, conn, c); err != nil {
			p.log.Debug("a connection ends", "client", c.Client, "server", c.Server, "error", err)
		}
	default:
		reset(conn)
	}
}

// protocol is what the rules of both sides speak of. Rules that are not known,
// or that disagree, are carried out by nobody.
func (p *proxy) protocol(r *l7.Ruling) l7.Protocol {
	found := l7.None
	for _, limit := range r.Limits {
		set := p.book.Set(limit.Set)
		switch {
		case set == nil:
			return l7.ProtocolOther
		case set.Protocol == l7.None || set.Protocol == found:
		case found != l7.None:
			return l7.ProtocolOther
		default:
			found = set.Protocol
		}
	}
	return found
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}

// markReady tells Kubernetes that new connections come here.
func (p *proxy) markReady() error {
	if p.opts.ReadyFile == "" {
		return nil
	}
	if err := file.Write(p.opts.ReadyFile, []byte(p.opts.Version+"\n"), 0o644); err != nil {
		return fmt.Errorf("say that the proxy is ready: %w", err)
	}
	return nil
}

// drain lets connections end. While no other proxy has taken over, new ones are
// still served; from then on clients are asked to go on with the other.
func (p *proxy) drain(listeners *Listeners) {
	until := time.NewTimer(p.opts.Drain)
	defer until.Stop()
	look := time.NewTicker(retryEvery)
	defer look.Stop()
	for {
		ours, err := p.kernel.Announced(listeners)
		if err == nil && !ours {
			p.http.Drain()
			if p.conns.len() == 0 {
				return
			}
		}
		select {
		case <-look.C:
		case <-until.C:
			p.log.Info("connections are ended, their time is over", "count", p.conns.len())
			p.conns.closeAll()
			return
		}
	}
}

// tracker knows the connections that are served.
type tracker struct {
	mu  sync.Mutex
	all map[net.Conn]struct{}
}

func (t *tracker) add(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[net.Conn]struct{}{}
	}
	t.all[c] = struct{}{}
}

func (t *tracker) remove(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, c)
}

func (t *tracker) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

func (t *tracker) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.all {
		reset(c)
	}
}
