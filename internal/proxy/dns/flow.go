// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/l7"
)

const protocolUDP = 17

// flow is a client's port and a server it asks, with a socket that is connected
// to the server.
type flow struct {
	id         l7.Connection
	to         address // of the client
	fd         int
	slot       int32 // in the table
	turn       int32 // tells apart flows that had the same slot
	ruling     l7.Ruling
	judged     bool
	passed     bool // nothing limits it: what comes is not read
	asks       asks
	used       time.Time // when the client last sent something
	next, prev *flow     // in the order of use
}

type ends struct{ client, server netip.AddrPort }

// table is the flows of one listener. It is for one goroutine.
type table struct {
	sockets     Sockets
	poll        int // epoll
	most        int // flows
	all         map[ends]*flow
	slots       []*flow
	free        []int32
	turn        int32
	first, last *flow           // used longest ago, last
	asking      map[uint64]*ask // by slot and ID
	spare       *ask
}

func (t *table) open(e ends, to *address, now time.Time) (*flow, error) {
	if len(t.all) >= t.most && !t.makeRoom() {
		return nil, errFull
	}
	fd, err := t.sockets.Upstream(e.client, e.server)
	if err != nil {
		return nil, err
	}
	f := &flow{id: l7.Connection{Client: e.client, Server: e.server, Protocol: protocolUDP}, to: *to, fd: fd, used: now}
	if n := len(t.free); n > 0 {
		f.slot, t.free = t.free[n-1], t.free[:n-1]
	} else {
		f.slot = int32(len(t.slots))
		t.slots = append(t.slots, nil)
	}
	t.turn++
	f.turn = t.turn
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: f.slot, Pad: f.turn}
	if err := unix.EpollCtl(t.poll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		t.free = append(t.free, f.slot)
		_ = unix.Close(fd)
		return nil, fmt.Errorf("wait for answers: %w", err)
	}
	t.slots[f.slot], t.all[e] = f, f
	t.link(f)
	return f, nil
}

var errFull = fmt.Errorf("every socket for questions waits for an answer")

// makeRoom closes the flow that was used longest ago and waits for nothing. It
// looks at few: this is not the moment for long searches.
func (t *table) makeRoom() bool {
	f := t.first
	for i := 0; f != nil && i < 256; i++ {
		if f.asks.n == 0 {
			t.close(f)
			return true
		}
		f = f.next
	}
	return false
}

// close ends a flow that no question waits for.
func (t *table) close(f *flow) {
	_ = unix.Close(f.fd) // which takes it from epoll
	delete(t.all, ends{f.id.Client, f.id.Server})
	t.slots[f.slot] = nil
	t.free = append(t.free, f.slot)
	t.unlink(f)
}

func (t *table) touch(f *flow, now time.Time) {
	f.used = now
	if t.last != f {
		t.unlink(f)
		t.link(f)
	}
}

func (t *table) link(f *flow) {
	if f.prev, f.next = t.last, nil; t.last == nil {
		t.first = f
	} else {
		t.last.next = f
	}
	t.last = f
}

func (t *table) unlink(f *flow) {
	if f.prev == nil {
		t.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		t.last = f.prev
	} else {
		f.next.prev = f.prev
	}
}

// shut closes everything.
func (t *table) shut() {
	for t.first != nil {
		t.close(t.first)
	}
}

func (f *flow) key(id uint16) uint64 { return uint64(f.slot)<<16 | uint64(id) }

// ask is a fresh question of a flow.
func (t *table) ask() *ask {
	if a := t.spare; a != nil {
		t.spare, a.next = a.next, nil
		return a
	}
	return &ask{}
}

func (t *table) add(f *flow, a *ask) {
	key := f.key(a.id)
	a.same = t.asking[key]
	t.asking[key] = a
	f.asks.append(a)
}

// find gives the question of a flow that is as wanted.
func (t *table) find(f *flow, id uint16, wanted func(*ask) bool) *ask {
	for a := t.asking[f.key(id)]; a != nil; a = a.same {
		if wanted(a) {
			return a
		}
	}
	return nil
}

// remove ends a question. It is good until the next one is made.
func (t *table) remove(f *flow, a *ask) {
	key := f.key(a.id)
	switch head := t.asking[key]; {
	case head != a:
		for head.same != a {
			head = head.same
		}
		head.same = a.same
	case a.same != nil:
		t.asking[key] = a.same
	default:
		delete(t.asking, key)
	}
	f.asks.remove(a)
	a.same, a.next, t.spare = nil, t.spare, a
}
