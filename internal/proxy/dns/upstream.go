// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"

	"golang.org/x/sys/unix"
)

// readUpstream takes what the server of a flow sent.
func (u *udp) readUpstream(f *flow) {
	for range batchSize {
		slot := u.out.slot()
		n, err := receive(f.fd, slot)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil { // an ICMP error: nobody listens there
			for f.asks.first != nil {
				u.fail(f, f.asks.first, "the server refuses")
			}
			return
		}
		if fault := u.fromServer(f, slot, n); fault != sound {
			u.Counters.dropped(fault)
		}
		if f.asks.n == 0 {
			return // more is not expected; if there is, epoll tells
		}
	}
}

// fromServer takes the n bytes in the slot of the outbox as an answer.
func (u *udp) fromServer(f *flow, slot []byte, n int) fault {
	if f.asks.n == 0 && f.passed {
		u.table.touch(f, u.now)
		u.Counters.Passed.Add(1)
		u.out.commit(f.id.Server, n, &f.to)
		return sound
	}
	msg, in := slot[:n], &u.answer
	off, fault := in.readHead(msg)
	if fault != sound {
		return fault
	}
	a := u.table.find(f, in.id, func(a *ask) bool { return a.answeredBy(in) })
	if a == nil {
		return notAskedFor
	}
	if fault := in.readRest(msg, off); fault != sound {
		return fault // the right one may still come
	}
	u.scribe.answer(u.now, f.id, &f.ruling, a, in)
	if !a.learns || in.code != 0 || len(in.addrs) == 0 || !u.lessons.take(u, f, a, msg) {
		u.Counters.Answered.Add(1)
		u.out.commit(f.id.Server, n, &f.to)
	}
	if a.sent--; a.sent <= 0 {
		u.end(f, a)
	}
	return sound
}

// end takes a question out.
func (u *udp) end(f *flow, a *ask) {
	u.places.answered(f.id.Client.Addr())
	u.table.remove(f, a)
}

// fail answers a question that the server does not answer.
func (u *udp) fail(f *flow, a *ask, reason string) {
	u.Counters.Unreachable.Add(1)
	u.scribe.failure(u.now, f.id, &f.ruling, a, codeServer, reason)
	slot := u.out.slot()
	u.out.commit(f.id.Server, len(a.reply(slot[:0], codeServer)), &f.to)
	u.end(f, a)
}

// expire ends the questions of a flow that waited too long. The client has given
// them up: nothing is sent.
func (u *udp) expire(f *flow) {
	for a := f.asks.first; a != nil && u.now.Sub(a.time) >= u.limits.Answer; a = f.asks.first {
		u.Counters.Unanswered.Add(1)
		u.end(f, a)
	}
}

// sweep closes what was not used for long, every tick.
func (u *udp) sweep() {
	if u.now.Sub(u.swept) < tick {
		return
	}
	u.swept = u.now
	for f := u.table.first; f != nil; {
		next, quiet := f.next, u.now.Sub(f.used)
		if quiet < u.limits.Linger {
			return // and all that follow
		}
		if u.expire(f); f.asks.n == 0 && (!f.passed || quiet >= u.limits.Answer) {
			u.table.close(f)
		}
		f = next
	}
}
