// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
)

// try is one attempt of a check, with what must come of it.
type try struct {
	from *pod
	to   string // for people
	req  probe.Request
	// denied: policy must hold it back, and an agent must say so.
	denied bool
	// unresolved: the name must not exist.
	unresolved bool
	// good says what is wrong with an answer. Optional.
	good func(probe.Answer) string
	// addrs of the other end, where it is one. For flows.
	addrs []netip.Addr
}

// deniedTimeout is how long an attempt waits that must not get through.
const deniedTimeout = time.Second

func (t try) String() string {
	text := t.from.Name + " -> " + t.to
	if t.req.Kind == probe.Resolve {
		return text
	}
	text += " " + t.req.Kind
	if t.req.Size > 1000 {
		text += fmt.Sprintf(" of %d bytes", t.req.Size)
	}
	return text
}

// trial is a check that runs.
//
// mu guards what follows it.
type trial struct {
	*bed
	flows    *flows
	external []external
	// unreachable: targets were given, and none is reached by the node itself.
	unreachable bool
	started     time.Time

	mu       sync.Mutex
	failures []string
	notes    []string
	failed   []try // those that went wrong
	tries    int
}

// wrong is a try that did not go as it must, and how.
type wrong struct {
	try
	text string
}

func (t *trial) fail(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

func (t *trial) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text := fmt.Sprintf(format, args...); !slices.Contains(t.notes, text) {
		t.notes = append(t.notes, text)
	}
}

// expect tries each once and at the same time, and keeps what went wrong.
func (t *trial) expect(ctx context.Context, tries ...try) {
	t.failAll(t.round(ctx, tries))
}

func (t *trial) failAll(list []wrong) {
	for _, w := range list {
		t.fail("%s: %s", w.try, w.text)
		t.mu.Lock()
		t.failed = append(t.failed, w.try)
		t.mu.Unlock()
	}
}

// converge tries again until all is as it must be: policies and services take a
// moment. What must be held back is tried first: once it is, the policy is in
// force, and what is allowed must get through.
func (t *trial) converge(ctx context.Context, limit time.Duration, tries ...try) {
	end := time.Now().Add(limit)
	isDenied := func(x try) bool { return x.denied }
	denied, allowed := split(tries, isDenied)
	for {
		wrong := t.round(ctx, denied)
		if len(wrong) == 0 {
			wrong = t.round(ctx, allowed)
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(end) || ctx.Err() != nil {
			t.failAll(wrong)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func split(all []try, is func(try) bool) (yes, no []try) {
	for _, x := range all {
		if is(x) {
			yes = append(yes, x)
		} else {
			no = append(no, x)
		}
	}
	return yes, no
}

// round returns what was not as it must be.
func (t *trial) round(ctx context.Context, tries []try) []wrong {
	t.mu.Lock()
	t.tries += len(tries)
	t.mu.Unlock()
	list := make([]wrong, len(tries))
	var all sync.WaitGroup
	for i, x := range tries {
		all.Go(func() { list[i] = wrong{x, t.one(ctx, x)} })
	}
	all.Wait()
	return slices.DeleteFunc(list, func(w wrong) bool { return w.text == "" })
}

// one returns what is wrong with the outcome of a try; "" if nothing is.
func (t *trial) one(ctx context.Context, x try) string {
	if x.denied {
		x.req.Timeout = deniedTimeout
	}
	start := time.Now()
	a, err := x.from.Ask(ctx, x.req)
	switch {
	case err != nil:
		return err.Error()
	case x.denied && a.Outcome == probe.OK:
		return "gets through, although policy denies it"
	case x.denied && a.Outcome != probe.Timeout && a.Outcome != probe.Unreachable:
		return "is held back, but not by policy: " + because(a)
	case x.denied:
		if t.flows.agents > 0 && len(x.addrs) > 0 && !t.flows.deniedBy(ctx, start.Add(-100*time.Millisecond), x.from.addrs, x.addrs, 3*time.Second) {
			return "is held back, but no agent tells that policy does"
		}
		return ""
	case x.unresolved && a.Outcome == probe.Unresolved:
		return ""
	case x.unresolved:
		return fmt.Sprintf("must have no address, got %s %v %s", a.Outcome, a.Addresses, a.Error)
	case a.Outcome != probe.OK:
		return because(a)
	case x.good != nil:
		return x.good(a)
	}
	return ""
}

// withPolicies runs body while the policies are there. Before it ends it waits
// until the pods that they selected are reached again: the next check must not
// meet what is left of this one.
func (t *trial) withPolicies(ctx context.Context, names []string, v values, open []try, body func()) {
	var made []object
	for _, name := range names {
		o, err := render("policies/"+name, v)
		if err == nil {
			err = t.cluster.Create(ctx, o.list, o.json)
		}
		if err != nil {
			t.fail("make policy %s: %v", name, err)
			break
		}
		made = append(made, o)
	}
	if len(made) == len(names) {
		body()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	for _, o := range made {
		if err := t.cluster.Delete(ctx, o.path()); err != nil {
			t.fail("remove policy %s: %v", o.name, err)
		}
	}
	before := len(t.failures)
	t.converge(ctx, 10*time.Second, open...)
	for i := before; i < len(t.failures); i++ {
		t.failures[i] = "after the policy was removed: " + t.failures[i]
	}
}

func because(a probe.Answer) string {
	if a.Error == "" || a.Error == "i/o timeout" {
		return a.Outcome
	}
	return a.Outcome + ": " + a.Error
}
