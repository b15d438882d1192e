// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"

	"google.golang.org/grpc"

	proxypb "github.com/stentor-net/stentor/api/proxy"
	"github.com/stentor-net/stentor/internal/l7"
)

// Server is the agent's end. Its methods may be called at any time, by many.
type Server struct {
	proxypb.UnimplementedProxyServer
	// Record takes what the proxies saw; records of one proxy come in order.
	Record func(*l7.Record)
	// Lost takes how many records a proxy had no room for; optional.
	Lost func(n uint64)

	mu       sync.Mutex
	table    *proxypb.RuleTable
	changed  chan struct{} // closed when the table or what is held changes
	followed map[*follower]bool
}

// follower is a proxy.
type follower struct {
	held     uint64
	problems []l7.Problem
}

// NewServer makes a server without rules.
func NewServer() *Server {
	return &Server{table: &proxypb.RuleTable{}, changed: make(chan struct{}), followed: map[*follower]bool{}}
}

// Set replaces the rules, in order of number, and gives the version that stands
// for them. Equal rules keep their version.
func (s *Server) Set(sets []l7.Source) uint64 {
	next := &proxypb.RuleTable{}
	for _, r := range sets {
		next.Sets = append(next.Sets, &proxypb.RuleSet{Number: r.Number, Lines: r.Lines})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	same := func(a, b *proxypb.RuleSet) bool { return a.Number == b.Number && slices.Equal(a.Lines, b.Lines) }
	if s.table.Version > 0 && slices.EqualFunc(s.table.Sets, next.Sets, same) {
		return s.table.Version
	}
	next.Version = s.table.Version + 1
	s.table = next
	s.tell()
	return next.Version
}

// tell wakes all who wait; mu is held.
func (s *Server) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Wait returns when every proxy that is there judges by the version, or by a
// newer one. Without a proxy nobody is waited for.
func (s *Server) Wait(ctx context.Context, version uint64) error {
	for {
		s.mu.Lock()
		behind := 0
		for f := range s.followed {
			if f.held < version {
				behind++
			}
		}
		changed := s.changed
		s.mu.Unlock()
		if behind == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d proxies do not have rules %d yet: %w", behind, version, ctx.Err())
		}
	}
}

// Proxies says how many proxies are there, and what rules they do not carry out.
func (s *Server) Proxies() (count int, problems []l7.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.followed {
		count++
		for _, p := range f.problems {
			if !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
		}
	}
	return count, problems
}

// Changed is closed when proxies come, go or hold something else.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Rules serves one proxy.
func (s *Server) Rules(stream grpc.BidiStreamingServer[proxypb.Held, proxypb.RuleTable]) error {
	f := &follower{}
	s.mu.Lock()
	s.followed[f] = true
	s.tell()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.followed, f)
		s.tell()
	}()
	ended := make(chan error, 1)
	go func() { ended <- s.hear(stream, f) }()
	for sent := uint64(0); ; {
		s.mu.Lock()
		table, changed := s.table, s.changed
		s.mu.Unlock()
		if table.Version > sent {
			if err := stream.Send(table); err != nil {
				return err
			}
			sent = table.Version
			continue
		}
		select {
		case <-changed:
		case err := <-ended:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// hear reads what a proxy holds.
func (s *Server) hear(stream grpc.BidiStreamingServer[proxypb.Held, proxypb.RuleTable], f *follower) error {
	for {
		held, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		f.held, f.problems = held.GetVersion(), nil
		for _, p := range held.GetProblems() {
			f.problems = append(f.problems, l7.Problem{Number: p.GetNumber(), Reason: p.GetReason()})
		}
		s.tell()
		s.mu.Unlock()
	}
}

// receive takes what a proxy saw, and gives how many records it has lost so far.
func (s *Server) receive(r *proxypb.Records, lost uint64) uint64 {
	for _, m := range r.GetRecords() {
		if record, err := recordOf(m); err == nil && s.Record != nil {
			s.Record(record)
		}
	}
	if n := r.GetLost(); n > lost {
		if s.Lost != nil {
			s.Lost(n - lost)
		}
		return n
	}
	return lost
}

// Serve listens on a unix socket until ctx ends. Only root may speak to it.
func (s *Server) Serve(ctx context.Context, socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen for the proxy: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen for the proxy: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("listen for the proxy: %w", err), l.Close())
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(messageMax), grpc.MaxSendMsgSize(messageMax))
	proxypb.RegisterProxyServer(g, server{s})
	defer context.AfterFunc(ctx, g.Stop)()
	defer g.Stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the proxy: %w", err)
	}
	return ctx.Err()
}

// messageMax is what a table of all rules may take.
const messageMax = 256 << 20

// server keeps the names of the protocol off Server, which has a field Record.
type server struct{ *Server }

// Record takes records until the proxy ends the stream.
func (s server) Record(stream grpc.ClientStreamingServer[proxypb.Records, proxypb.Received]) error {
	lost := uint64(0)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&proxypb.Received{})
		}
		if err != nil {
			return err
		}
		lost = s.receive(r, lost)
	}
}
