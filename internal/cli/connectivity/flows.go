// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"bufio"
	"context"
	"encoding/json"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
)

// flows keeps what agents tell of the test's pods.
//
// mu guards events and changed.
type flows struct {
	mu      sync.Mutex
	events  []flow
	changed chan struct{} // closed at the next event
	agents  int           // that are listened to
}

type flow struct {
	at time.Time // when it came here: clocks of nodes may differ
	rest.Event
}

// flowsKept bounds memory; the oldest go first.
const flowsKept = 20000

// follow listens to the agents until ctx ends. An agent that cannot be listened
// to is told by say, and missing.
func follow(ctx context.Context, agents []*client.Client, pods []string, say func(string, ...any)) *flows {
	f := &flows{changed: make(chan struct{})}
	query := url.Values{rest.FilterType: {rest.EventDrop}, rest.FilterRelated: pods}
	for _, a := range agents {
		body, err := a.Stream(ctx, rest.PathMonitor, query)
		if err != nil {
			say("the agent of node %s tells no flows: %v", a.Node(), err)
			continue
		}
		f.agents++
		go func() {
			defer body.Close()
			lines := bufio.NewScanner(body)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				var e rest.Event
				if json.Unmarshal(lines.Bytes(), &e) != nil {
					continue
				}
				if e.Node == "" {
					e.Node = a.Node()
				}
				f.add(e)
			}
		}()
	}
	return f
}

func (f *flows) add(e rest.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) >= flowsKept {
		f.events = slices.Clone(f.events[flowsKept/2:])
	}
	f.events = append(f.events, flow{time.Now(), e})
	close(f.changed)
	f.changed = make(chan struct{})
}

// deniedBy waits until an agent tells that policy held back a packet between the
// two addresses since then; it returns false if none does within the limit.
func (f *flows) deniedBy(ctx context.Context, since time.Time, from, to []netip.Addr, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		f.mu.Lock()
		changed := f.changed
		found := slices.ContainsFunc(f.events, func(e flow) bool {
			return !e.at.Before(since) && e.Type == rest.EventDrop && strings.HasPrefix(e.ReasonText, "Policy denied") &&
				isOneOf(e.Source.IP, from) && isOneOf(e.Dest.IP, to)
		})
		f.mu.Unlock()
		if found {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

func isOneOf(ip string, addrs []netip.Addr) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && slices.Contains(addrs, a)
}

// of returns the events between the times that have to do with one of the tries,
// equal ones counted instead of repeated.
func (f *flows) of(since, until time.Time, tries []try) []rest.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []rest.Event
	index := map[string]int{}
	for _, e := range f.events {
		if e.at.Before(since) || e.at.After(until) || !slices.ContainsFunc(tries, func(x try) bool { return concerns(e.Event, x) }) {
			continue
		}
		key := strings.Join([]string{e.Node, e.ReasonText, e.Direction, e.Source.IP, e.Dest.IP, e.Protocol}, " ")
		if i, ok := index[key]; ok {
			out[i].Count += max(e.Count, 1)
			continue
		}
		index[key] = len(out)
		e.Count = max(e.Count, 1)
		out = append(out, e.Event)
	}
	return out
}

// concerns tells whether an event is about a packet of the try, or of its answer.
func concerns(e rest.Event, x try) bool {
	from, to := x.from.addrs, x.addrs
	if len(to) == 0 {
		return isOneOf(e.Source.IP, from) || isOneOf(e.Dest.IP, from)
	}
	return isOneOf(e.Source.IP, from) && isOneOf(e.Dest.IP, to) || isOneOf(e.Source.IP, to) && isOneOf(e.Dest.IP, from)
}
