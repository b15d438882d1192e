// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// ask is a question that waits for its answer.
type ask struct {
	id, flags   uint16
	kind, class uint16
	edns        bool
	ednsFlags   uint16
	question    []byte // as the client wrote it
	name        string // canonical
	time        time.Time
	sent        int // how often the client asked; so many answers may come
	limit       l7.Limit
	learns      bool
	endpoint    uint16

	next, prev *ask // of the same port or connection, oldest first
	same       *ask // with the same ID of the same port
}

// set makes an ask of a query that was allowed.
func (a *ask) set(q *query, name string, now time.Time, d *decision) {
	a.id, a.flags, a.kind, a.class, a.edns, a.ednsFlags = q.id, q.flags, q.kind, q.class, q.edns, q.ednsFlags
	a.question = append(a.question[:0], q.question...)
	a.name, a.time, a.sent = name, now, 1
	a.limit, a.learns, a.endpoint = d.limit, d.learns, d.endpoint
}

// is tells whether a query is the same question once more.
func (a *ask) is(q *query) bool {
	return a.id == q.id && bytes.Equal(a.question, q.question)
}

// answeredBy tells whether an answer is one to the question. What the server
// writes in other letters than the client is for the client to judge. A server
// that could not read the question says so without it.
func (a *ask) answeredBy(in *answer) bool {
	if a.id != in.id || in.name == nil {
		return a.id == in.id && in.code != 0
	}
	return a.kind == in.kind && a.class == in.class && a.name == string(in.name)
}

// reply appends our own answer.
func (a *ask) reply(dst []byte, code uint16) []byte {
	q := query{id: a.id, flags: a.flags, question: a.question, edns: a.edns, ednsFlags: a.ednsFlags}
	return appendReply(dst, &q, code)
}

// asks is a list of questions, oldest first.
type asks struct {
	first, last *ask
	n           int
}

func (l *asks) append(a *ask) {
	a.next, a.prev = nil, l.last
	if l.last == nil {
		l.first = a
	} else {
		l.last.next = a
	}
	l.last = a
	l.n++
}

func (l *asks) remove(a *ask) {
	if a.prev == nil {
		l.first = a.next
	} else {
		a.prev.next = a.next
	}
	if a.next == nil {
		l.last = a.prev
	} else {
		a.next.prev = a.prev
	}
	a.next, a.prev = nil, nil
	l.n--
}
