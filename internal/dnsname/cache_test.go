// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func addr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

func nobody(uint16, netip.Addr) bool { return false }

func pattern(t testing.TB, text string) Pattern {
	t.Helper()
	p, err := ParsePattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAnAddressInUseStaysAfterItsTime(t *testing.T) {
	c := NewCache(Limits{Grace: time.Second})
	c.Learn(at(0), 5, "a.x.", []netip.Addr{addr(1), addr(2)}, 10)
	c.Learn(at(0), 6, "a.x.", []netip.Addr{addr(1)}, 10)
	used := func(id uint16, a netip.Addr) bool { return id == 5 && a == addr(1) }
	if gone := c.Sweep(at(9), used); gone != nil {
		t.Fatalf("before its time: %v", gone)
	}
	gone := c.Sweep(at(10), used)
	if len(gone) != 2 || gone[0].Addr != addr(2) || gone[1].Endpoint != 6 {
		t.Fatalf("forgotten: %v", gone)
	}
	if names := c.Names(5, addr(1)); !slices.Equal(names, []string{"a.x."}) {
		t.Fatalf("the used address has names %v", names)
	}
	if all := c.Entries(); len(all) != 1 || !all[0].Zombie {
		t.Fatalf("left: %+v", all)
	}
	if fresh, _ := c.Learn(at(20), 5, "a.x.", []netip.Addr{addr(1)}, 10); fresh != nil {
		t.Errorf("an address that was there is fresh: %v", fresh)
	}
	if all := c.Entries(); all[0].Zombie || !all[0].Expires.Equal(at(30)) {
		t.Errorf("learned again: %+v", all)
	}
	if gone := c.Sweep(at(40), nobody); len(gone) != 1 || len(c.Entries()) != 0 {
		t.Errorf("at last: %v", gone)
	}
}

func TestAnAnswerWithoutTimeIsGoodForAConnection(t *testing.T) {
	c := NewCache(Limits{Grace: 30 * time.Second})
	c.Learn(at(0), 5, "a.x.", []netip.Addr{addr(1)}, 0)
	c.Learn(at(0), 5, "b.x.", []netip.Addr{addr(2)}, 1<<31) // read as 0
	if gone := c.Sweep(at(29), nobody); gone != nil {
		t.Fatalf("forgotten too early: %v", gone)
	}
	if gone := c.Sweep(at(30), nobody); len(gone) != 2 {
		t.Fatalf("after the grace: %v", gone)
	}
	c = NewCache(Limits{MinTTL: time.Hour})
	c.Learn(at(0), 5, "a.x.", []netip.Addr{addr(1)}, 1)
	if all := c.Entries(); !all[0].Expires.Equal(at(3600)) {
		t.Fatalf("the least time does not hold: %+v", all)
	}
}

func TestTheOldestAddressOfANameMakesRoom(t *testing.T) {
	c := NewCache(Limits{Addresses: 3, Zombies: 2})
	for i := range 4 {
		c.Learn(at(i), 5, "a.x.", []netip.Addr{addr(i)}, uint32(1000-i))
	}
	if all := c.Entries(); len(all) != 4 || !all[0].Zombie || all[1].Zombie {
		t.Fatalf("the first must make room, but may be in use: %+v", all)
	}
	c.Learn(at(5), 5, "a.x.", []netip.Addr{addr(1)}, 1000) // learned again: now 2 is the oldest
	c.Learn(at(6), 5, "a.x.", []netip.Addr{addr(6)}, 1000)
	if all := c.Entries(); all[1].Zombie || !all[2].Zombie {
		t.Fatalf("what was learned again is not the oldest: %+v", all)
	}
	_, gone := c.Learn(at(7), 5, "a.x.", []netip.Addr{addr(7)}, 1000)
	if len(gone) != 1 || gone[0].Addr != addr(0) {
		t.Fatalf("one zombie too many: %v", gone)
	}
}

func TestForgettingByPattern(t *testing.T) {
	c := NewCache(Limits{})
	c.Learn(at(0), 5, "a.x.", []netip.Addr{addr(1)}, 10)
	c.Learn(at(0), 5, "a.y.", []netip.Addr{addr(1)}, 10)
	c.Learn(at(0), 6, "b.x.", []netip.Addr{addr(2), addr(1)}, 10)
	if got := c.Addresses(pattern(t, "*.x")); !slices.Equal(got, []netip.Addr{addr(1), addr(2)}) {
		t.Errorf("addresses of *.x: %v", got)
	}
	if got := c.Addresses(pattern(t, "a.y")); !slices.Equal(got, []netip.Addr{addr(1)}) {
		t.Errorf("addresses of a.y: %v", got)
	}
	if gone := c.Forget(5, pattern(t, "*.x")); len(gone) != 1 || gone[0].Name != "a.x." {
		t.Errorf("forgotten for 5: %v", gone)
	}
	if names := c.Names(5, addr(1)); !slices.Equal(names, []string{"a.y."}) {
		t.Errorf("left: %v", names)
	}
	if gone := c.Forget(0, pattern(t, "*")); len(gone) != 3 || len(c.Entries()) != 0 {
		t.Errorf("forgotten for all: %v", gone)
	}
}

func TestAStateComesBackWhole(t *testing.T) {
	c := NewCache(Limits{})
	c.Learn(at(0), 5, "a.x.", []netip.Addr{addr(1), netip.MustParseAddr("fd00::1")}, 10)
	c.Learn(at(0), 7, `a\.b.x.`, []netip.Addr{addr(3)}, 100)
	state := c.AppendState(nil)
	d := NewCache(Limits{})
	if err := d.Restore(state, at(50)); err != nil {
		t.Fatal(err)
	}
	want := c.Entries()
	want[0].Zombie, want[1].Zombie = true, true // their time is over
	if got := d.Entries(); !reflect.DeepEqual(got, want) {
		t.Errorf("restored\n%+v, kept\n%+v", got, want)
	}
	for i := range state {
		bad := slices.Clone(state)
		bad[i] ^= 0x10
		if err := d.Restore(bad, at(0)); err == nil {
			t.Fatalf("byte %d is wrong, and nobody notices", i)
		}
	}
	if err := d.Restore(state[:len(state)-1], at(0)); err == nil {
		t.Error("the end is missing, and nobody notices")
	}
}

func FuzzState(f *testing.F) {
	c := NewCache(Limits{})
	c.Learn(at(0), 5, "a.x.", []netip.Addr{addr(1), netip.MustParseAddr("fd00::1")}, 10)
	f.Add(c.AppendState(nil)[len(stateHead)+32:])
	f.Fuzz(func(t *testing.T, rest []byte) {
		entries, err := readState(reader{rest: rest})
		if err == nil && len(entries) > len(rest) {
			t.Fatalf("%d entries of %d bytes", len(entries), len(rest))
		}
	})
}

// model is a cache without any cleverness.
type model struct {
	limits Limits
	list   []Entry
	order  []uint64 // of the entries in list
	next   uint64
}

func (m *model) find(id uint16, name string, a netip.Addr) int {
	return slices.IndexFunc(m.list, func(e Entry) bool { return e.Endpoint == id && e.Name == name && e.Addr == a })
}

// least is the entry that comes first among those that are of interest, or -1.
func (m *model) least(want func(*Entry) bool, byTime bool) (best, count int) {
	best = -1
	for i := range m.list {
		e := &m.list[i]
		if !want(e) {
			continue
		}
		count++
		if best < 0 || byTime && e.Expires.Before(m.list[best].Expires) ||
			(!byTime || e.Expires.Equal(m.list[best].Expires)) && m.order[i] < m.order[best] {
			best = i
		}
	}
	return best, count
}

func (m *model) retire(i int, now time.Time) {
	e := &m.list[i]
	if e.Zombie = true; now.Before(e.Expires) {
		e.Expires = now
	}
}

func (m *model) remove(i int) Entry {
	e := m.list[i]
	m.list, m.order = slices.Delete(m.list, i, i+1), slices.Delete(m.order, i, i+1)
	return e
}

func (m *model) bound(id uint16) (gone []Entry) {
	for {
		i, n := m.least(func(e *Entry) bool { return e.Endpoint == id && e.Zombie }, true)
		if n <= m.limits.Zombies {
			return gone
		}
		gone = append(gone, m.remove(i))
	}
}

func (m *model) learn(now time.Time, id uint16, name string, addrs []netip.Addr, ttl uint32) (gone []Entry) {
	for _, a := range addrs {
		m.next++
		expires := now.Add(max(time.Duration(ttl)*time.Second, m.limits.MinTTL))
		i := m.find(id, name, a)
		if i < 0 {
			i = len(m.list)
			m.list, m.order = append(m.list, Entry{Endpoint: id, Name: name, Addr: a}), append(m.order, 0)
		}
		e := &m.list[i]
		if e.Zombie || e.Expires.Before(expires) {
			e.Expires = expires
		}
		e.Zombie, e.Learned, m.order[i] = false, now, m.next
		if i, n := m.least(func(e *Entry) bool { return e.Endpoint == id && e.Name == name && !e.Zombie }, false); n > m.limits.Addresses {
			m.retire(i, now)
		}
		if i, n := m.least(func(e *Entry) bool { return e.Endpoint == id && !e.Zombie }, true); n > m.limits.Entries {
			m.retire(i, now)
		}
		gone = append(gone, m.bound(id)...)
	}
	return gone
}

func (m *model) sweep(now time.Time, alive func(uint16, netip.Addr) bool) (gone []Entry) {
	for i := range m.list {
		if e := &m.list[i]; !e.Zombie && !now.Before(e.Expires) {
			m.retire(i, now)
		}
	}
	for i := len(m.list) - 1; i >= 0; i-- {
		if e := &m.list[i]; e.Zombie && now.Sub(e.Learned) >= m.limits.Grace && !alive(e.Endpoint, e.Addr) {
			gone = append(gone, m.remove(i))
		}
	}
	for id := range uint16(10) {
		gone = append(gone, m.bound(id)...)
	}
	slices.SortFunc(gone, compare)
	return gone
}

func TestTheCacheDoesWhatThePlainModelDoes(t *testing.T) {
	for seed := range uint64(150) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		limits := Limits{MinTTL: time.Duration(rnd.IntN(3)) * time.Second, Addresses: 1 + rnd.IntN(5), Entries: 3 + rnd.IntN(12), Zombies: 1 + rnd.IntN(6), Grace: 3 * time.Second}
		c, m := NewCache(limits), &model{limits: limits}
		now := start
		for step := range 300 {
			now = now.Add(time.Duration(rnd.IntN(1500)) * time.Millisecond)
			used := rnd.Uint64()
			alive := func(id uint16, a netip.Addr) bool { return used>>(uint(a.As4()[3])+uint(id))&1 == 1 }
			id, name := uint16(1+rnd.IntN(2)), fmt.Sprintf("n%d.x.", rnd.IntN(4))
			switch rnd.IntN(8) {
			case 0:
				if got, want := c.Sweep(now, alive), m.sweep(now, alive); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d: swept\n%v, the model\n%v", seed, step, got, want)
				}
			case 1: // a restart changes nothing
				d := NewCache(limits)
				if err := d.Restore(c.AppendState(nil), time.Unix(0, 0)); err != nil || len(d.Entries()) != len(c.Entries()) {
					t.Fatalf("seed %d, step %d: %d of %d entries restored, %v", seed, step, len(d.Entries()), len(c.Entries()), err)
				}
			default:
				addrs := []netip.Addr{addr(rnd.IntN(8)), addr(rnd.IntN(8)), addr(rnd.IntN(8))}[:1+rnd.IntN(3)]
				ttl := uint32(rnd.IntN(9))
				_, got := c.Learn(now, id, name, addrs, ttl)
				if want := m.learn(now, id, name, addrs, ttl); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d: had to go\n%v, the model\n%v", seed, step, got, want)
				}
			}
			want := slices.SortedFunc(slices.Values(m.list), compare)
			if got := c.Entries(); !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, step %d: holds\n%v, the model\n%v", seed, step, got, want)
			}
			var names []string
			for _, e := range want {
				if e.Endpoint == id && e.Addr == addr(3) {
					names = append(names, e.Name)
				}
			}
			if got := c.Names(id, addr(3)); !slices.Equal(got, names) {
				t.Fatalf("seed %d, step %d: names %v, the model %v", seed, step, got, names)
			}
		}
	}
}

// BenchmarkLearnChanging learns an address never seen before for one of 1,000
// names, whose addresses are as many as they may be.
func BenchmarkLearnChanging(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := NewCache(Limits{Addresses: 100})
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("name%d.example.com.", i)
	}
	one := make([]netip.Addr, 1)
	next := 0
	learn := func() {
		one[0] = addr(next)
		c.Learn(start.Add(time.Duration(next)*time.Millisecond), 5, names[next%len(names)], one, 3600)
		next++
	}
	for range 200_000 {
		learn()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := len(c.Entries())
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		learn()
	}
	b.ReportMetric(float64(held), "entries")
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(held), "B/entry")
}
