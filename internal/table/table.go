// SPDX-License-Identifier: Apache-2.0

// Package table keeps typed rows that one writer changes and everybody else reads, watches and prints.
//
// A table is an immutable radix tree swapped under a lock: a Snapshot never
// changes, costs nothing to take and never blocks the writer. Every commit
// raises the table's revision by one; a Cursor hands out what changed since it
// was last asked, deletions included. Rows are values that nobody changes after
// they are stored.
//
// Locking: readers take a read lock for one pointer copy; the writer holds the
// write lock only to swap trees. Cursors may be used by one goroutine each.
package table

import (
	"encoding/binary"
	"fmt"
	"iter"
	"sync"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Column describes how one field of a row is printed.
type Column[R any] struct {
	Name  string         // upper-case heading
	Value func(R) string // text of the cell, without line breaks
}

// Options describe a table. Name, Key and Columns are required.
type Options[R any] struct {
	// Name of the table: a plural noun, as in `stentor db show NAME`.
	Name string
	// Key is the row's unique key. It must not change while the row lives.
	Key func(R) string
	// Indexes are extra ways to find rows: for each name, the index keys of a row. Optional.
	Indexes map[string]func(R) []string
	// Columns to print, in order.
	Columns []Column[R]
}

type entry[R any] struct {
	key     string
	row     R
	rev     uint64
	seq     uint32
	deleted bool
}

// state is one immutable version of the table.
type state[R any] struct {
	rev     uint64
	rows    *iradix.Tree[*entry[R]]            // key -> entry
	byRev   *iradix.Tree[*entry[R]]            // revision, sequence -> entry, tombstones included
	graves  *iradix.Tree[struct{}]             // revision, sequence of the tombstones
	indexes map[string]*iradix.Tree[*entry[R]] // index key, 0x00, key -> entry
	changed chan struct{}                      // closed by the next commit
}

// Table is the reading side.
type Table[R any] struct {
	opts    Options[R]
	mu      sync.RWMutex
	cur     *state[R]
	write   sync.Mutex // held for a whole transaction
	seq     uint32     // orders entries of one revision
	cursors map[*Cursor[R]]uint64
	synced  chan struct{}
	once    sync.Once
}

// New makes an empty table and the only handle that can change it. It panics if
// a required option is missing, which is a programming error.
func New[R any](o Options[R]) (*Table[R], *Writer[R]) {
	if o.Name == "" || o.Key == nil || len(o.Columns) == 0 {
		panic("table: Name, Key and Columns are required")
	}
	idx := make(map[string]*iradix.Tree[*entry[R]], len(o.Indexes))
	for name := range o.Indexes {
		idx[name] = iradix.New[*entry[R]]()
	}
	t := &Table[R]{
		opts:    o,
		cursors: map[*Cursor[R]]uint64{},
		synced:  make(chan struct{}),
		cur: &state[R]{
			rows: iradix.New[*entry[R]](), byRev: iradix.New[*entry[R]](), graves: iradix.New[struct{}](),
			indexes: idx, changed: make(chan struct{}),
		},
	}
	return t, &Writer[R]{t: t}
}

// Name of the table.
func (t *Table[R]) Name() string { return t.opts.Name }

// Revision counts the commits so far.
func (t *Table[R]) Revision() uint64 { return t.state().rev }

func (t *Table[R]) state() *state[R] {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.cur
}

// Snapshot returns the table as it is now.
func (t *Table[R]) Snapshot() Snapshot[R] { return Snapshot[R]{s: t.state()} }

// Get returns the row with the key.
func (t *Table[R]) Get(key string) (R, bool) { return t.Snapshot().Get(key) }

// Changed returns a channel that is closed at the next commit after this call.
func (t *Table[R]) Changed() <-chan struct{} { return t.state().changed }

// Synced returns a channel that is closed once the writer has said that the
// first complete content is in the table.
func (t *Table[R]) Synced() <-chan struct{} { return t.synced }

// Describe returns the table's headings and its rows as text, in key order.
func (t *Table[R]) Describe() (headings []string, rows [][]string) {
	for _, c := range t.opts.Columns {
		headings = append(headings, c.Name)
	}
	for _, r := range t.Snapshot().All() {
		cells := make([]string, 0, len(t.opts.Columns))
		for _, c := range t.opts.Columns {
			cells = append(cells, c.Value(r))
		}
		rows = append(rows, cells)
	}
	return headings, rows
}

// Snapshot is a version of a table that never changes.
type Snapshot[R any] struct{ s *state[R] }

// Revision counts the commits so far.
func (s Snapshot[R]) Revision() uint64 { return s.s.rev }

// Len is the number of rows.
func (s Snapshot[R]) Len() int { return s.s.rows.Len() }

// Get returns the row with the key.
func (s Snapshot[R]) Get(key string) (R, bool) {
	if e, ok := s.s.rows.Get([]byte(key)); ok {
		return e.row, true
	}
	var zero R
	return zero, false
}

// Written is the revision of the commit that wrote the row with the key; 0 if
// there is none. A row with the same revision is the same row.
func (s Snapshot[R]) Written(key string) uint64 {
	if e, ok := s.s.rows.Get([]byte(key)); ok {
		return e.rev
	}
	return 0
}

// All yields key and row in key order.
func (s Snapshot[R]) All() iter.Seq2[string, R] { return s.Prefix("") }

// Prefix yields the rows whose key starts with p, in key order.
func (s Snapshot[R]) Prefix(p string) iter.Seq2[string, R] {
	return func(yield func(string, R) bool) {
		s.s.rows.Root().WalkPrefix([]byte(p), func(_ []byte, e *entry[R]) bool {
			return !yield(e.key, e.row)
		})
	}
}

// Index yields the rows that the named index files under value. It panics if
// the table has no such index, which is a programming error.
func (s Snapshot[R]) Index(name, value string) iter.Seq2[string, R] {
	tree, ok := s.s.indexes[name]
	if !ok {
		panic(fmt.Sprintf("table: no index %q", name))
	}
	return func(yield func(string, R) bool) {
		tree.Root().WalkPrefix([]byte(value+"\x00"), func(_ []byte, e *entry[R]) bool {
			return !yield(e.key, e.row)
		})
	}
}

func revKey(rev uint64, seq uint32) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 12), rev)
	return binary.BigEndian.AppendUint32(b, seq)
}
