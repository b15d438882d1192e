// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// lesson is an answer that waits to be learned.
type lesson struct {
	server   netip.AddrPort
	to       address
	data     []byte
	endpoint uint16
	name     string
	addrs    []netip.Addr
	ttl      uint32
	until    time.Time
	err      error
	sent     bool // the loop sent it
	learned  bool // a learner is through with it
}

// learning has answers learned by goroutines of its own, so that one that takes
// long holds up no other. The loop alone sends; when an answer has waited long
// enough, whatever the learner does.
type learning struct {
	work   chan *lesson
	queue  []*lesson // in the order of their end; all have waited as long
	spare  []*lesson
	taken  int // by learners, and not seen again
	unsent int

	mu   sync.Mutex
	done []*lesson
	took []*lesson // what done was before
}

// start starts the learners; end has them stop.
func (l *learning) start(u *udp, running *sync.WaitGroup) (end func()) {
	l.work = make(chan *lesson, u.limits.Learning)
	ctx, cancel := context.WithCancel(context.Background())
	if u.Learner != nil {
		for range u.limits.Learners {
			running.Go(func() { l.learn(ctx, u) })
		}
	}
	return func() {
		cancel()
		close(l.work)
	}
}

func (l *learning) learn(ctx context.Context, u *udp) {
	for lesson := range l.work {
		ctx, cancel := context.WithDeadline(ctx, lesson.until)
		lesson.err = u.Learner.Learn(ctx, lesson.endpoint, lesson.name, lesson.addrs, lesson.ttl)
		cancel()
		l.mu.Lock()
		l.done = append(l.done, lesson)
		first := len(l.done) == 1
		l.mu.Unlock()
		if first {
			u.rouse()
		}
	}
}

// take keeps a copy of the answer that was read last until it is learned. It
// says no if too many wait.
func (l *learning) take(u *udp, f *flow, a *ask, msg []byte) bool {
	if l.taken >= u.limits.Learning {
		u.Counters.LearnLate.Add(1)
		return false
	}
	s := l.fresh()
	s.server, s.to, s.endpoint, s.name = f.id.Server, f.to, a.endpoint, a.name
	s.data = append(s.data[:0], msg...)
	s.addrs = append(s.addrs[:0], u.answer.addrs...)
	s.ttl, s.until = u.answer.ttl, u.now.Add(u.limits.Learn)
	s.err, s.sent, s.learned = nil, false, false
	l.queue = append(l.queue, s)
	l.taken++
	l.unsent++
	l.work <- s // has room for all that may be taken
	return true
}

func (l *learning) fresh() *lesson {
	if n := len(l.spare); n > 0 {
		s := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return s
	}
	return &lesson{}
}

// due is how long the loop may sleep.
func (l *learning) due(now time.Time) time.Duration {
	for _, s := range l.queue {
		if !s.sent {
			return max(s.until.Sub(now), time.Millisecond)
		}
	}
	return tick
}

func (l *learning) waiting() int { return l.unsent }

// release sends the answers that were learned, and those whose time is over.
func (l *learning) release(u *udp) {
	l.mu.Lock()
	l.done, l.took = l.took[:0], l.done
	l.mu.Unlock()
	for _, s := range l.took {
		s.learned = true
		l.taken--
		switch {
		case s.sent:
			l.spare = append(l.spare, s)
			continue
		case s.err != nil:
			u.Counters.LearnFailed.Add(1)
		default:
			u.Counters.Learned.Add(1)
		}
		l.send(u, s)
	}
	n := 0
	for _, s := range l.queue {
		if !s.sent && u.now.Before(s.until) {
			break
		}
		n++
		if !s.sent {
			u.Counters.LearnLate.Add(1)
			l.send(u, s)
		}
		if s.learned {
			l.spare = append(l.spare, s)
		}
	}
	l.queue = append(l.queue[:0], l.queue[n:]...)
}

func (l *learning) send(u *udp, s *lesson) {
	u.Counters.Answered.Add(1)
	u.out.commit(s.server, copy(u.out.slot(), s.data), &s.to)
	l.unsent--
	s.sent = true
}
