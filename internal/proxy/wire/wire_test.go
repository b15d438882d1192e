// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// serve runs an agent's end until the function that it gives is called.
func serve(t *testing.T, s *Server, socket string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, socket); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// follow runs a proxy's end; what it applies comes out of the channel.
func follow(t *testing.T, socket string, problems []l7.Problem) (*Client, <-chan []l7.Source) {
	t.Helper()
	applied := make(chan []l7.Source, 16)
	c := NewClient(slog.New(slog.DiscardHandler), socket, func(s []l7.Source) []l7.Problem {
		applied <- s
		return problems
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return c, applied
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// proxies waits until so many proxies are there.
func proxies(t *testing.T, s *Server, want int) {
	t.Helper()
	ctx := within(t)
	for {
		changed := s.Changed()
		if n, _ := s.Proxies(); n == want {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("no %d proxies", want)
		}
	}
}

var some = []l7.Source{{Number: 7, Lines: []string{"*"}}, {Number: 9, Lines: []string{`{"ports":[{"port":"80"}]}`}}}

func TestWaitEndsWhenTheProxyJudgesByTheRules(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	s := NewServer()
	serve(t, s, socket)
	bad := l7.Problem{Number: 9, Reason: "not carried out"}
	_, applied := follow(t, socket, []l7.Problem{bad})
	proxies(t, s, 1)
	v := s.Set(some)
	if err := s.Wait(within(t), v); err != nil {
		t.Fatal(err)
	}
	last := <-applied
	for len(applied) > 0 {
		last = <-applied
	}
	if !reflect.DeepEqual(last, some) {
		t.Errorf("applied %v", last)
	}
	if _, problems := s.Proxies(); !reflect.DeepEqual(problems, []l7.Problem{bad}) {
		t.Errorf("problems %v", problems)
	}
	if again := s.Set(some); again != v {
		t.Errorf("equal rules got version %d after %d", again, v)
	}
}

func TestWaitSaysWhoIsBehind(t *testing.T) {
	s := NewServer()
	s.followed[&follower{}] = true
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Wait(ctx, s.Set(some)); err == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNobodyIsWaitedForWithoutAProxy(t *testing.T) {
	s := NewServer()
	if err := s.Wait(within(t), s.Set(some)); err != nil {
		t.Error(err)
	}
}

func TestAProxyFindsTheAgentThatComesBack(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	_, applied := follow(t, socket, nil) // before there is any agent
	first := NewServer()
	first.Set(some)
	stop := serve(t, first, socket)
	if got := <-applied; !reflect.DeepEqual(got, some) {
		t.Fatalf("applied %v", got)
	}
	stop()
	second := NewServer()
	second.Set(some[:1])
	serve(t, second, socket)
	if got := <-applied; !reflect.DeepEqual(got, some[:1]) {
		t.Errorf("applied %v", got)
	}
}

func TestRecordsArriveAsTheyWere(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	got := make(chan *l7.Record, 4)
	s := NewServer()
	s.Record = func(r *l7.Record) { got <- r }
	serve(t, s, socket)
	c, _ := follow(t, socket, nil)
	for _, want := range []*l7.Record{
		{
			Time: time.Unix(5, 6), Verdict: l7.Denied, Reason: "no rule allows it", Latency: 3,
			Connection: l7.Connection{Client: netip.MustParseAddrPort("10.0.0.1:5000"), Server: netip.MustParseAddrPort("10.0.0.2:80"), Protocol: 6},
			Ruling:     l7.Ruling{Client: 1001, Server: 1002},
			Limit:      l7.Limit{Side: l7.Ingress, Endpoint: 4, Set: 70000},
			HTTP:       &l7.HTTP{Protocol: "HTTP/1.1", Method: "PUT", Scheme: "http", Host: "deathstar", Path: "/v1/exhaust-port", Code: 403, Headers: []l7.Header{{Name: "x", Value: "y"}}},
		},
		{
			Time:       time.Unix(7, 0),
			Connection: l7.Connection{Client: netip.MustParseAddrPort("[fd00::1]:5000"), Server: netip.MustParseAddrPort("[fd00::2]:53"), Protocol: 17},
			DNS:        &l7.DNS{Name: "a.example.", Type: 28, Answer: true, Code: 3, TTL: 30, IPs: []string{"fd00::9"}, CNAMEs: []string{"b.example."}},
			Kafka:      &l7.Kafka{APIKey: 1, APIVersion: 2, CorrelationID: 3, ClientID: "c", Topic: "t", Code: 29},
		},
	} {
		c.Record(want)
		if r := <-got; !reflect.DeepEqual(r, want) {
			t.Errorf("got  %+v\nwant %+v", r, want)
		}
	}
}

func TestWhatThereIsNoRoomForIsCounted(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	s := NewServer()
	lost := make(chan uint64, 4)
	s.Lost = func(n uint64) { lost <- n }
	c := NewClient(slog.New(slog.DiscardHandler), socket, nil)
	r := &l7.Record{Connection: l7.Connection{Client: netip.MustParseAddrPort("10.0.0.1:1"), Server: netip.MustParseAddrPort("10.0.0.2:2")}}
	for range queueMax + 3 {
		c.Record(r)
	}
	c.Apply = func([]l7.Source) []l7.Problem { return nil }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	serve(t, s, socket)
	if n := <-lost; n != 3 {
		t.Errorf("lost %d", n)
	}
}
