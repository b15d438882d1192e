// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/proxy/dns"
	"github.com/stentor-net/stentor/internal/proxy/http"
	"github.com/stentor-net/stentor/internal/proxy/wire"
)

// Options of the program.
type Options struct {
	Socket    string // of the agent, for proxies
	StateDir  string // where the last rules are kept
	BPFDir    string // where the agent has pinned the node's maps
	IPv4      bool
	IPv6      bool
	ReadyFile string        // written once new connections come here; empty: none
	Drain     time.Duration // how long connections may go on after ctx ended
	Version   string
}

// proxy is one that runs.
type proxy struct {
	log     *slog.Logger
	opts    Options
	kernel  Kernel
	book    l7.Book
	store   store
	http    *http.Server
	dns     *dns.Server
	serving sync.WaitGroup // all that serves connections
	conns   tracker
}

// retryEvery is the time between tries to reach what the agent makes.
const retryEvery = 200 * time.Millisecond

// Run is the proxy of a node until ctx ends; then it lets its connections end,
// for a bounded time.
func Run(ctx context.Context, log *slog.Logger, o Options) error {
	kernel, err := awaitKernel(ctx, log, o)
	if err != nil {
		return err
	}
	return run(ctx, log, o, kernel)
}

// awaitKernel waits for the maps that an agent makes on a new node.
func awaitKernel(ctx context.Context, log *slog.Logger, o Options) (Kernel, error) {
	for said := false; ; {
		k, err := openKernel(o)
		if err == nil {
			return k, nil
		}
		if !said {
			log.Info("the node's maps are awaited", "folder", o.BPFDir, "error", err)
			said = true
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return nil, fmt.Errorf("open the node's maps: %w", errors.Join(err, ctx.Err()))
		}
	}
}

func run(ctx context.Context, log *slog.Logger, o Options, kernel Kernel) error {
	defer func() { _ = kernel.Close() }()
	p := &proxy{log: log, opts: o, kernel: kernel, store: store(filepath.Join(o.StateDir, "l7rules"))}
	sets, err := p.store.load()
	if err != nil {
		log.Warn("rules from before are not used", "error", err)
	}
	p.book.Replace(sets, noSecrets)
	client := wire.NewClient(log, o.Socket, p.apply)
	p.http = &http.Server{Judge: kernel, Rules: &p.book, Dialer: kernel, Recorder: client}
	p.dns = &dns.Server{Judge: kernel, Rules: &p.book, Sockets: kernel, Recorder: client}
	listeners, err := kernel.Listen()
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// Connections outlive ctx by the time to drain.
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var accepting, talking errgroup.Group
	broken := make(chan error, len(listeners.UDP))
	for _, l := range listeners.TCP {
		accepting.Go(func() error { return p.accept(alive, l) })
	}
	for _, l := range listeners.UDP {
		accepting.Go(func() error {
			if err := p.dns.ServeUDP(alive, l.FD); err != nil {
				broken <- err
			}
			return nil
		})
	}
	talking.Go(func() error { return client.Run(alive) })
	stop := func() error {
		end()
		err := errors.Join(listeners.closeTCP(), ignoreEnd(accepting.Wait()))
		p.serving.Wait() // they ask the kernel's tables, which are closed after this
		return errors.Join(err, listeners.closeUDP(), ignoreEnd(talking.Wait()))
	}
	if err := kernel.Announce(listeners); err != nil {
		return errors.Join(fmt.Errorf("have connections sent here: %w", err), stop())
	}
	log.Info("proxy is ready", "version", o.Version, "rules", len(sets))
	if err := p.markReady(); err != nil {
		return errors.Join(err, stop())
	}
	select {
	case <-ctx.Done():
		p.drain(listeners)
		return stop()
	case err := <-broken:
		return errors.Join(fmt.Errorf("serve DNS: %w", err), stop())
	}
}

// apply puts rules of the agent in force.
func (p *proxy) apply(sets []l7.Source) []l7.Problem {
	problems := p.book.Replace(sets, noSecrets)
	if err := p.store.save(sets); err != nil {
		p.log.Warn("rules hold, but not over a restart", "error", err)
	}
	p.log.Debug("rules replaced", "sets", len(sets), "problems", len(problems))
	return problems
}

// noSecrets: Secrets do not reach the proxy yet; what needs one allows nothing.
func noSecrets(namespace, name string) (map[string][]byte, error) {
	return nil, fmt.Errorf("secret %s/%s: Secrets are not read yet", namespace, name)
}

func ignoreEnd(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
