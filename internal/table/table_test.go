// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type ship struct{ Name, Side string }

func ships() (*Table[ship], *Writer[ship]) {
	return New(Options[ship]{
		Name:    "ships",
		Key:     func(s ship) string { return s.Name },
		Indexes: map[string]func(ship) []string{"side": func(s ship) []string { return []string{s.Side} }},
		Columns: []Column[ship]{{"NAME", func(s ship) string { return s.Name }}, {"SIDE", func(s ship) string { return s.Side }}},
	})
}

func names(s Snapshot[ship], side string) (out []string) {
	for _, r := range s.Index("side", side) {
		out = append(out, r.Name)
	}
	return out
}

func TestAnIndexFollowsTheRow(t *testing.T) {
	tab, w := ships()
	w.Upsert(ship{"xwing", "alliance"}, ship{"tie", "empire"})
	before := tab.Snapshot()
	w.Upsert(ship{"xwing", "empire"})
	if d := cmp.Diff([]string{"tie", "xwing"}, names(tab.Snapshot(), "empire")); d != "" {
		t.Error(d)
	}
	if got := names(tab.Snapshot(), "alliance"); got != nil {
		t.Errorf("alliance still has %v", got)
	}
	if d := cmp.Diff([]string{"xwing"}, names(before, "alliance")); d != "" {
		t.Errorf("the older snapshot changed: %s", d)
	}
}

func TestReplaceReportsOnlyWhatDiffers(t *testing.T) {
	tab, w := ships()
	w.Upsert(ship{"a", "1"}, ship{"b", "1"}, ship{"c", "1"})
	c := tab.Changes()
	defer c.Close()
	c.Next()
	w.Replace([]ship{{"a", "1"}, {"b", "2"}}, func(x, y ship) bool { return x == y })
	got, _ := c.Next()
	want := []Change[ship]{{Key: "b", Row: ship{"b", "2"}}, {Key: "c", Row: ship{"c", "1"}, Deleted: true}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	rev := tab.Snapshot().Revision()
	w.Replace([]ship{{"a", "1"}, {"b", "2"}}, func(x, y ship) bool { return x == y })
	if tab.Snapshot().Revision() != rev {
		t.Error("a replace that changed nothing raised the revision")
	}
}

func TestACursorRebuildsTheTableWhateverHappened(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tab, w := ships()
	c := tab.Changes()
	defer c.Close()
	mirror := map[string]ship{}
	for range 2000 {
		w.Update(func(tx *Tx[ship]) {
			for range r.IntN(4) {
				name := fmt.Sprint(r.IntN(20))
				if r.IntN(3) == 0 {
					tx.Delete(name)
				} else {
					tx.Upsert(ship{name, fmt.Sprint(r.IntN(3))})
				}
			}
		})
		if r.IntN(3) != 0 {
			continue
		}
		changes, _ := c.Next()
		for _, ch := range changes {
			if ch.Deleted {
				delete(mirror, ch.Key)
			} else {
				mirror[ch.Key] = ch.Row
			}
		}
		want := map[string]ship{}
		for k, row := range tab.Snapshot().All() {
			want[k] = row
		}
		if d := cmp.Diff(want, mirror); d != "" {
			t.Fatal(d)
		}
	}
	c.Next()
	w.Upsert(ship{"last", "x"})
	if n, rows := tab.state().byRev.Len(), tab.Snapshot().Len(); n > rows+1 {
		t.Errorf("the log holds %d entries for %d rows: tombstones are not forgotten", n, rows)
	}
}

func TestWaitReturnsWhenTheConditionHolds(t *testing.T) {
	tab, w := ships()
	done := make(chan error, 1)
	go func() {
		done <- tab.Wait(t.Context(), func(s Snapshot[ship]) bool { return s.Len() == 2 })
	}()
	w.Upsert(ship{"a", ""})
	w.Upsert(ship{"b", ""})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tab.Wait(ctx, func(Snapshot[ship]) bool { return false }); err == nil {
		t.Error("an ended context gave no error")
	}
}
