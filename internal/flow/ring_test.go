// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"sync"
	"testing"
)

func TestARingKeepsTheNewestAndTellsWhatWasMissed(t *testing.T) {
	r := NewRing(4)
	for i := range 10 {
		r.Add(&Record{Time: int64(i)})
	}
	r.Lose(3)
	if b := r.Bounds(); b != (Bounds{Oldest: 6, Next: 10, Capacity: 4, Lost: 3}) {
		t.Errorf("bounds %+v", b)
	}
	buf := make([]Record, 3)
	first, n := r.Read(2, buf)
	if first != 6 || n != 3 || buf[0].Time != 6 || buf[2].Time != 8 {
		t.Errorf("read from 2: first %d, %d records from time %d", first, n, buf[0].Time)
	}
	if first, n = r.Read(9, buf); first != 9 || n != 1 || buf[0].Time != 9 {
		t.Errorf("read from 9: first %d, %d records", first, n)
	}
	if _, n = r.Read(10, buf); n != 0 {
		t.Errorf("read of what is not there yet gives %d records", n)
	}
}

func TestEveryReaderSeesOrMissesEachRecord(t *testing.T) {
	const total, readers = 20000, 4
	r := NewRing(64)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			buf := make([]Record, 16)
			seen, missed, next := 0, uint64(0), uint64(0)
			for seen+int(missed) < total {
				changed := r.Changed()
				first, n := r.Read(next, buf)
				missed += first - next
				for i := range n {
					if got := uint64(buf[i].Time); got != first+uint64(i) {
						t.Errorf("record %d is where %d should be", got, first+uint64(i))
						return
					}
				}
				seen += n
				if next = first + uint64(n); n == 0 {
					<-changed
				}
			}
		})
	}
	for i := range total {
		r.Add(&Record{Time: int64(i)})
	}
	wg.Wait()
}

func TestAddingAllocatesNothing(t *testing.T) {
	r, rec := NewRing(8), sample()
	if n := testing.AllocsPerRun(100, func() { r.Add(rec) }); n != 0 {
		t.Errorf("%v allocations for a record", n)
	}
}
