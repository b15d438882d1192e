// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"math"
)

// Change is one row's newest state.
type Change[R any] struct {
	Key     string
	Row     R // the last row, also when deleted
	Deleted bool
}

// Cursor hands out the changes of a table since it was last asked. The first
// answer holds every row. A row that changed twice in between appears once,
// except that a deletion is always reported before the same key's return.
type Cursor[R any] struct {
	t   *Table[R]
	rev uint64
}

// Changes returns a new cursor. Close it when it is no longer read: the table
// keeps deleted rows until all cursors have seen them.
func (t *Table[R]) Changes() *Cursor[R] {
	c := &Cursor[R]{t: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cursors[c] = 0
	return c
}

// Close lets the table forget the cursor.
func (c *Cursor[R]) Close() {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	delete(c.t.cursors, c)
}

// Next returns what changed since the last call, oldest first, and a channel
// that is closed when there is more.
func (c *Cursor[R]) Next() ([]Change[R], <-chan struct{}) {
	s := c.t.state()
	if s.rev == c.rev {
		return nil, s.changed
	}
	var out []Change[R]
	it := s.byRev.Root().Iterator()
	it.SeekLowerBound(revKey(c.rev, math.MaxUint32))
	for _, e, ok := it.Next(); ok; _, e, ok = it.Next() {
		if e.rev <= c.rev || (e.deleted && c.rev == 0) {
			continue
		}
		out = append(out, Change[R]{Key: e.key, Row: e.row, Deleted: e.deleted})
	}
	c.rev = s.rev
	c.t.mu.Lock()
	if _, open := c.t.cursors[c]; open {
		c.t.cursors[c] = s.rev
	}
	c.t.mu.Unlock()
	return out, s.changed
}

// Wait blocks until the condition holds for a snapshot of the table or ctx ends.
func (t *Table[R]) Wait(ctx context.Context, cond func(Snapshot[R]) bool) error {
	for {
		s := t.state()
		if cond(Snapshot[R]{s: s}) {
			return nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
