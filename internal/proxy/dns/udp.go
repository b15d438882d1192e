// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/proxy/sock"
)

// tick is how often what is over is looked for.
const tick = 250 * time.Millisecond

// What epoll says is ready besides flows: their slot would be negative.
const (
	slotListener = -1
	slotWake     = -2
)

// udp serves the datagrams of one listener. One goroutine does it all but
// learning: it has a thread of its own, and its sockets are not the runtime's.
type udp struct {
	*Server
	scribe   scribe
	table    table
	listener int // fd
	poll     int // fd of epoll
	wake     int // fd of an eventfd: somebody wants the loop
	in       *inbox
	out      *outbox
	query    query
	answer   answer
	now      time.Time
	swept    time.Time
	draining bool
	lessons  learning
}

// ServeUDP serves the datagrams of a listener until ctx ends; then it reads no
// more, and ends when no question waits for an answer. fd is a datagram socket
// that tells the original destination of each, see package sock; it stays the
// caller's.
func (s *Server) ServeUDP(ctx context.Context, fd int) (err error) {
	s.begin()
	u := &udp{Server: s, scribe: scribe{to: s.Recorder}, listener: fd, in: newInbox()}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("serve datagrams: %w", err)
	}
	six := family == unix.AF_INET6
	answers, raw, err := s.Sockets.Answers(six)
	if err != nil {
		return err
	}
	defer unix.Close(answers)
	u.out = newOutbox(answers, raw, six, func() { s.Counters.Lost.Add(1) })
	if u.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("wait for datagrams: %w", err)
	}
	defer unix.Close(u.poll)
	if u.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("wait for datagrams: %w", err)
	}
	defer unix.Close(u.wake)
	for slot, fd := range map[int32]int{slotListener: u.listener, slotWake: u.wake} {
		if err := unix.EpollCtl(u.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: slot}); err != nil {
			return fmt.Errorf("wait for datagrams: %w", err)
		}
	}
	// Queries come in bursts; without the right to have more, what there is does.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	u.table = table{sockets: s.Sockets, poll: u.poll, most: s.limits.Questions, all: map[ends]*flow{}, asking: map[uint64]*ask{}}
	defer u.table.shut()
	var learners sync.WaitGroup
	defer learners.Wait()
	end := u.lessons.start(u, &learners)
	defer end()
	told := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() { defer close(told); u.rouse() })
	defer func() {
		if !cancel() { // it uses a descriptor that is about to be closed
			<-told
		}
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return u.loop(ctx)
}

// rouse makes the loop look around. Any goroutine may call it.
func (u *udp) rouse() {
	one := [8]byte{1}
	if n, _ := unix.Write(u.wake, one[:]); n == 0 {
		return // it is awake
	}
}

func (u *udp) loop(ctx context.Context) error {
	var events [batchSize]unix.EpollEvent
	var drained time.Time
	for {
		wait := tick
		if d := u.lessons.due(u.now); d < wait {
			wait = d
		}
		n, err := unix.EpollWait(u.poll, events[:], int((wait + time.Millisecond - 1).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for datagrams: %w", err)
		}
		u.now = time.Now()
		for _, e := range events[:max(n, 0)] {
			switch e.Fd {
			case slotListener:
				u.readListener()
			case slotWake:
				var eight [8]byte
				_, _ = unix.Read(u.wake, eight[:])
			default:
				if f := u.table.slots[e.Fd]; f != nil && f.turn == e.Pad {
					u.readUpstream(f)
				}
			}
		}
		u.lessons.release(u)
		u.out.flush()
		u.sweep()
		if ctx.Err() == nil {
			continue
		}
		if !u.draining {
			u.draining, drained = true, u.now.Add(u.limits.Answer)
			_ = unix.EpollCtl(u.poll, unix.EPOLL_CTL_DEL, u.listener, nil)
		}
		if len(u.table.asking) == 0 && u.lessons.waiting() == 0 || u.now.After(drained) {
			return nil
		}
	}
}

// readListener takes what clients sent.
func (u *udp) readListener() {
	n, err := u.in.read(u.listener)
	if err != nil {
		return // nothing is there, or an error about something that was sent before
	}
	for i := range n {
		data, control, cut := u.in.datagram(i)
		server, err := sock.Destination(control)
		client := u.in.from[i].addrPort()
		if err != nil || !client.IsValid() {
			u.Counters.Unknown.Add(1)
			continue
		}
		if cut {
			u.Counters.refused()
			continue
		}
		u.fromClient(ends{client, server}, &u.in.from[i], data)
	}
}

// fromClient takes one datagram of a client.
func (u *udp) fromClient(e ends, from *address, data []byte) {
	f := u.table.all[e]
	if f == nil {
		u.first(e, from, data)
		return
	}
	if !u.judge(f.id, &f.ruling, &f.judged) {
		u.Counters.Unknown.Add(1)
		return
	}
	u.table.touch(f, u.now)
	if f.passed = u.unlimited(&f.ruling); f.passed {
		u.Counters.Passed.Add(1)
		u.forward(f, data)
		return
	}
	if fault := u.query.read(data); fault != sound {
		u.refuse(f.id, &f.ruling, from, fault)
		return
	}
	name := u.scribe.texts.name(u.query.name)
	d := u.decide(&f.ruling, name)
	if !d.allowed {
		u.deny(f.id, &f.ruling, from, name, &d)
		return
	}
	u.ask(f, data, name, &d)
}

// first takes the first datagram of a client's port. No socket is made for what
// is refused.
func (u *udp) first(e ends, from *address, data []byte) {
	id := l7.Connection{Client: e.client, Server: e.server, Protocol: protocolUDP}
	var r l7.Ruling
	var judged bool
	if !u.judge(id, &r, &judged) {
		u.Counters.Unknown.Add(1)
		return
	}
	unlimited := u.unlimited(&r)
	var d decision
	name := ""
	if !unlimited {
		if fault := u.query.read(data); fault != sound {
			u.refuse(id, &r, from, fault)
			return
		}
		name = u.scribe.texts.name(u.query.name)
		if d = u.decide(&r, name); !d.allowed {
			u.deny(id, &r, from, name, &d)
			return
		}
	}
	f, err := u.table.open(e, from, u.now)
	if err != nil {
		u.unopened(id, &r, from, name, &d, err)
		return
	}
	f.ruling, f.judged, f.passed = r, judged, unlimited
	if unlimited {
		u.Counters.Passed.Add(1)
		u.forward(f, data)
		return
	}
	u.ask(f, data, name, &d)
}

// unopened says that there is no socket for a question.
func (u *udp) unopened(id l7.Connection, r *l7.Ruling, from *address, name string, d *decision, err error) {
	reason := "the server cannot be reached"
	if errors.Is(err, errFull) {
		u.Counters.Overload.Add(1)
		reason = "too many questions wait for an answer"
	} else {
		u.Counters.Unreachable.Add(1)
	}
	if name == "" {
		return
	}
	u.scribe.question(u.now, id, r, d.limit, l7.Rejected, reason, name, u.query.kind)
	u.reply(id.Server, from, codeServer)
}

// refuse answers a message with a fault, if it has an answer.
func (u *udp) refuse(id l7.Connection, r *l7.Ruling, from *address, f fault) {
	u.Counters.refused()
	u.scribe.refusal(u.now, id, r, f, &u.query)
	if code := f.code(); code != 0 {
		u.reply(id.Server, from, code)
	}
}

func (u *udp) deny(id l7.Connection, r *l7.Ruling, from *address, name string, d *decision) {
	u.Counters.Denied.Add(1)
	u.scribe.question(u.now, id, r, d.limit, l7.Denied, d.reason, name, u.query.kind)
	u.reply(id.Server, from, u.deniedCode())
}

// reply answers the query that was read last.
func (u *udp) reply(server netip.AddrPort, to *address, code uint16) {
	slot := u.out.slot()
	u.out.commit(server, len(appendReply(slot[:0], &u.query, code)), to)
}

// ask sends an allowed question on. One that was sent before and waits is sent
// once more.
func (u *udp) ask(f *flow, data []byte, name string, d *decision) {
	u.expire(f)
	a := u.table.find(f, u.query.id, func(a *ask) bool { return a.is(&u.query) })
	if a != nil {
		a.sent++
		a.limit, a.learns, a.endpoint = d.limit, d.learns, d.endpoint
	} else {
		if !u.places.ask(f.id.Client.Addr()) {
			u.Counters.Overload.Add(1)
			u.scribe.question(u.now, f.id, &f.ruling, d.limit, l7.Rejected, "too many questions wait for an answer", name, u.query.kind)
			u.reply(f.id.Server, &f.to, codeServer)
			return
		}
		a = u.table.ask()
		a.set(&u.query, name, u.now, d)
		u.table.add(f, a)
	}
	u.scribe.question(u.now, f.id, &f.ruling, d.limit, l7.Forwarded, "", name, u.query.kind)
	if u.forward(f, data) {
		u.Counters.Forwarded.Add(1)
		return
	}
	u.fail(f, a, "the server cannot be reached")
}

// forward sends a datagram on, unchanged. That the server did not listen before is
// told once, instead of sending: it is asked again.
func (u *udp) forward(f *flow, data []byte) bool {
	err := send(f.fd, data)
	if errors.Is(err, unix.ECONNREFUSED) {
		err = send(f.fd, data)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS):
		u.Counters.Lost.Add(1)
		return true // the client asks again
	}
	return false
}
