// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// court is a herald with a clock of its own.
type court struct {
	*herald
	cluster *fakeCluster
	checks  *checks
	clock   time.Time
}

func newCourt() *court {
	c := &court{cluster: newFakeCluster(), clock: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	t, _, own := newTables()
	c.checks = &checks{writer: own.checks, now: func() time.Time { return c.clock }}
	c.herald = &herald{log: slog.New(slog.DiscardHandler), opts: Options{NodeName: "n1"}, tables: t, cluster: c.cluster, now: func() time.Time { return c.clock }}
	return c
}

// after lets time pass and returns what was told then.
func (c *court) after(t *testing.T, d time.Duration) string {
	t.Helper()
	c.clock = c.clock.Add(d)
	c.cluster.notices = nil
	c.step(t.Context())
	var out []string
	for _, n := range c.cluster.notices {
		kind := "Normal"
		if n.Warning {
			kind = "Warning"
		}
		out = append(out, fmt.Sprintf("%s %s x%d: %s", kind, n.Reason, n.Count, n.Message))
	}
	return strings.Join(out, "\n")
}

func TestWhatStaysWrongIsToldOnce(t *testing.T) {
	c := newCourt()
	c.checks.ok("health", "2 nodes answer")
	for _, step := range []struct {
		what string
		do   func()
		wait time.Duration
		want string
	}{
		{"all is well", func() {}, 0, ""},
		{"a short silence", func() { c.checks.warn("health", "node n2 does not answer", "traffic", "") }, 20 * time.Second, ""},
		{"which ends", func() { c.checks.ok("health", "2 nodes answer") }, 0, ""},
		{"a long one begins", func() { c.checks.warn("health", "node n2 does not answer", "traffic", "") }, 0, ""},
		{"and lasts", func() {}, 30 * time.Second, "Warning NodesUnreachable x1: node n2 does not answer; missing: traffic"},
		{"nothing new", func() {}, time.Minute, ""},
		{"another node", func() { c.checks.warn("health", "2 nodes do not answer: n2, n3", "traffic", "") }, time.Second, "Warning NodesUnreachable x2: 2 nodes do not answer: n2, n3; missing: traffic"},
		{"before the event expires", func() {}, 30 * time.Minute, "Warning NodesUnreachable x3: 2 nodes do not answer: n2, n3; missing: traffic"},
		{"the API server is away", func() { c.checks.ok("health", "3 nodes answer"); c.cluster.down = errors.New("away") }, 29 * time.Second, "Normal NodesUnreachableResolved x1: well again after 32m0s: 3 nodes answer"},
		{"and back", func() { c.cluster.down = nil }, time.Second, "Normal NodesUnreachableResolved x1: well again after 32m1s: 3 nodes answer"},
		{"it was told", func() {}, time.Hour, ""},
	} {
		step.do()
		if got := c.after(t, step.wait); got != step.want {
			t.Errorf("%s: got %q, want %q", step.what, got, step.want)
		}
	}
}

func TestNoticesAreLimited(t *testing.T) {
	c := newCourt()
	c.checks.warn("health", "0", "", "")
	sent := 0
	for i := range 100 {
		c.checks.warn("health", fmt.Sprint(i), "", "")
		wait := time.Duration(0)
		if i == 0 {
			wait = heraldGrace
		}
		sent += strings.Count(c.after(t, wait), "Warning")
	}
	if sent != heraldBurst {
		t.Errorf("%d at once", sent)
	}
	sent = 0
	for i := range 300 {
		c.checks.warn("health", fmt.Sprint("again ", i), "", "")
		sent += strings.Count(c.after(t, time.Second), "Warning")
	}
	if sent != 5 {
		t.Errorf("%d in five minutes", sent)
	}
}
