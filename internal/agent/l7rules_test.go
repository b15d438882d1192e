// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/proxy/wire"
)

type namingEngine struct {
	fakeEngine
	named []l7.Source
}

func (e *namingEngine) L7() []l7.Source { return e.named }

func numbersOf(list []l7.Source) (out []uint32) {
	for _, s := range list {
		out = append(out, s.Number)
	}
	return out
}

func TestRulesThatTheKernelNamesAreKnownBeforeAndAfterAStep(t *testing.T) {
	table, writer := newL7Table()
	r := &l7Rules{log: slog.New(slog.DiscardHandler), writer: writer, server: wire.NewServer()}
	e := &namingEngine{named: []l7.Source{{Number: 5, Lines: []string{"*"}}}}
	check := func(when string, want ...uint32) {
		t.Helper()
		got := numbersOf(rowsOf(table))
		if len(got) != len(want) {
			t.Fatalf("%s: got %v, want %v", when, got, want)
		}
		for _, n := range want {
			if !slices.Contains(got, n) {
				t.Fatalf("%s: got %v, want %v", when, got, want)
			}
		}
	}
	r.before(e, true)
	check("before the first step", 5)
	r.after()
	e.named = []l7.Source{{Number: 7, Lines: []string{"*"}}}
	r.before(e, false)
	check("a step without rules", 5)
	r.before(e, true)
	check("while the kernel may name both", 5, 7)
	r.after()
	check("after it", 7)
	e.named = nil
	r.before(e, true)
	check("while the last may still be named", 7)
	r.after()
	check("after the last has gone")
}

func TestOnlySetsNameRules(t *testing.T) {
	if namesRules([]policy.Op{policy.Grace{}, policy.SetPeer{}}) {
		t.Error("steps without sets are said to name rules")
	}
	if !namesRules([]policy.Op{policy.Grace{}, policy.DeleteSet{}}) || !namesRules([]policy.Op{policy.WriteSet{}}) {
		t.Error("steps with sets are said to name none")
	}
}
