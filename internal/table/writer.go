// SPDX-License-Identifier: Apache-2.0

package table

import (
	"encoding/binary"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Writer is the only handle that changes its table. It may be shared by
// goroutines of the one owner; transactions are serial.
type Writer[R any] struct{ t *Table[R] }

// Table returns the reading side.
func (w *Writer[R]) Table() *Table[R] { return w.t }

// MarkSynced says that the first complete content is in the table.
func (w *Writer[R]) MarkSynced() { w.t.once.Do(func() { close(w.t.synced) }) }

// Upsert stores rows in one commit.
func (w *Writer[R]) Upsert(rows ...R) {
	w.Update(func(tx *Tx[R]) {
		for _, r := range rows {
			tx.Upsert(r)
		}
	})
}

// Delete removes the rows with these keys in one commit; absent ones are no error.
func (w *Writer[R]) Delete(keys ...string) {
	w.Update(func(tx *Tx[R]) {
		for _, k := range keys {
			tx.Delete(k)
		}
	})
}

// Replace makes the table hold exactly rows, in one commit. Rows for which same
// reports true are left alone, so that watchers see real changes only; a nil
// same rewrites every row.
func (w *Writer[R]) Replace(rows []R, same func(a, b R) bool) {
	w.Update(func(tx *Tx[R]) {
		keep := make(map[string]bool, len(rows))
		for _, r := range rows {
			k := w.t.opts.Key(r)
			keep[k] = true
			if old, ok := tx.Get(k); ok && same != nil && same(old, r) {
				continue
			}
			tx.Upsert(r)
		}
		var gone []string
		for k := range w.t.Snapshot().All() {
			if !keep[k] {
				gone = append(gone, k)
			}
		}
		for _, k := range gone {
			tx.Delete(k)
		}
	})
}

// Update runs fn in a transaction and commits what it did at once. A
// transaction that changed nothing leaves the revision as it is.
func (w *Writer[R]) Update(fn func(tx *Tx[R])) {
	t := w.t
	t.write.Lock()
	defer t.write.Unlock()
	old := t.state()
	tx := &Tx[R]{t: t, rev: old.rev + 1, rows: old.rows.Txn(), byRev: old.byRev.Txn(), graves: old.graves.Txn(), indexes: map[string]*iradix.Txn[*entry[R]]{}}
	for name, tree := range old.indexes {
		tx.indexes[name] = tree.Txn()
	}
	fn(tx)
	if !tx.dirty {
		return
	}
	next := &state[R]{rev: tx.rev, indexes: map[string]*iradix.Tree[*entry[R]]{}, changed: make(chan struct{})}
	for name, x := range tx.indexes {
		next.indexes[name] = x.Commit()
	}
	next.rows = tx.rows.Commit()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bury(tx.byRev, tx.graves)
	next.byRev, next.graves = tx.byRev.Commit(), tx.graves.Commit()
	t.cur = next
	close(old.changed)
}

// bury forgets the tombstones that every cursor has seen. The caller holds mu.
func (t *Table[R]) bury(byRev *iradix.Txn[*entry[R]], graves *iradix.Txn[struct{}]) {
	seen := ^uint64(0)
	for _, rev := range t.cursors {
		seen = min(seen, rev)
	}
	var dead [][]byte
	graves.Root().Walk(func(k []byte, _ struct{}) bool {
		if binary.BigEndian.Uint64(k) > seen {
			return true
		}
		dead = append(dead, append([]byte(nil), k...))
		return len(dead) >= 256 // the rest waits for the next commit
	})
	for _, k := range dead {
		byRev.Delete(k)
		graves.Delete(k)
	}
}

// Tx is an open transaction. It sees its own writes.
type Tx[R any] struct {
	t       *Table[R]
	rev     uint64
	rows    *iradix.Txn[*entry[R]]
	byRev   *iradix.Txn[*entry[R]]
	graves  *iradix.Txn[struct{}]
	indexes map[string]*iradix.Txn[*entry[R]]
	dirty   bool
}

// Get returns the row with the key.
func (tx *Tx[R]) Get(key string) (R, bool) {
	if e, ok := tx.rows.Get([]byte(key)); ok {
		return e.row, true
	}
	var zero R
	return zero, false
}

// Upsert stores a row.
func (tx *Tx[R]) Upsert(row R) {
	key := tx.t.opts.Key(row)
	if old, ok := tx.rows.Get([]byte(key)); ok {
		tx.unlink(old)
	}
	e := &entry[R]{key: key, row: row, rev: tx.rev}
	tx.rows.Insert([]byte(key), e)
	for name, keys := range tx.t.opts.Indexes {
		for _, k := range keys(row) {
			tx.indexes[name].Insert([]byte(k+"\x00"+key), e)
		}
	}
	tx.log(e)
}

// Delete removes a row; an absent one is no error.
func (tx *Tx[R]) Delete(key string) {
	old, ok := tx.rows.Get([]byte(key))
	if !ok {
		return
	}
	tx.unlink(old)
	tx.rows.Delete([]byte(key))
	tx.log(&entry[R]{key: key, row: old.row, rev: tx.rev, deleted: true})
}

func (tx *Tx[R]) log(e *entry[R]) {
	tx.t.seq++
	e.seq = tx.t.seq
	tx.byRev.Insert(revKey(e.rev, e.seq), e)
	if e.deleted {
		tx.graves.Insert(revKey(e.rev, e.seq), struct{}{})
	}
	tx.dirty = true
}

// unlink takes a row out of the log and the indexes.
func (tx *Tx[R]) unlink(old *entry[R]) {
	tx.byRev.Delete(revKey(old.rev, old.seq))
	for name, keys := range tx.t.opts.Indexes {
		for _, k := range keys(old.row) {
			tx.indexes[name].Delete([]byte(k + "\x00" + old.key))
		}
	}
}
