// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"sync"
)

// Ring keeps the newest records. One goroutine writes; any number reads, and
// none of them holds up the writer: who is too slow is told how much it missed.
//
// mu guards all fields; the writer holds it for one copy.
type Ring struct {
	mu      sync.RWMutex
	records []Record      // record n is at n modulo len
	next    uint64        // number of the record to come; the first is 0
	lost    uint64        // events that were lost before they became records
	changed chan struct{} // closed by the next write if somebody waits
	waited  bool
}

// NewRing makes a ring for a number of records, at least one.
func NewRing(capacity int) *Ring {
	return &Ring{records: make([]Record, max(capacity, 1)), changed: make(chan struct{})}
}

// Add appends a record.
func (r *Ring) Add(rec *Record) {
	r.mu.Lock()
	r.records[r.next%uint64(len(r.records))] = *rec
	r.next++
	r.wake()
	r.mu.Unlock()
}

// Lose counts events that never became records.
func (r *Ring) Lose(n uint64) {
	r.mu.Lock()
	r.lost += n
	r.wake()
	r.mu.Unlock()
}

// wake tells those who wait. The caller holds mu.
func (r *Ring) wake() {
	if r.waited {
		close(r.changed)
		r.changed, r.waited = make(chan struct{}), false
	}
}

// Changed gives a channel that is closed by the next write.
func (r *Ring) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waited = true
	return r.changed
}

// Bounds of the ring: records oldest to next-1 can be read.
type Bounds struct {
	Oldest, Next uint64
	Capacity     int
	Lost         uint64 // events that never became records
}

// Bounds tells what can be read now.
func (r *Ring) Bounds() Bounds {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return Bounds{Oldest: r.oldest(), Next: r.next, Capacity: len(r.records), Lost: r.lost}
}

func (r *Ring) oldest() uint64 {
	if n := uint64(len(r.records)); r.next > n {
		return r.next - n
	}
	return 0
}

// Read copies records from number `from` on and gives the number that the
// first copied one has: more than `from` by what was overwritten meanwhile.
func (r *Ring) Read(from uint64, into []Record) (first uint64, n int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	first = max(from, r.oldest())
	for n < len(into) && first+uint64(n) < r.next {
		into[n] = r.records[(first+uint64(n))%uint64(len(r.records))]
		n++
	}
	return first, n
}
