// SPDX-License-Identifier: Apache-2.0

package dnsname

// place is one of the queues that an entry can be in.
type place uint8

const (
	ofName     place = iota // entries of one name whose time is not over, as they were learned
	ofEndpoint              // entries of an endpoint, by the end of their time
	places
)

// queue is a heap of entries.
type queue struct {
	list []*entry
	in   place
}

func (q *queue) before(a, b *entry) bool {
	if q.in == ofEndpoint && a.expires != b.expires {
		return a.expires < b.expires
	}
	return a.order < b.order
}

func (q *queue) set(i int, e *entry) {
	q.list[i] = e
	e.at[q.in] = int32(i)
}

func (q *queue) push(e *entry) {
	q.list = append(q.list, e)
	q.up(len(q.list)-1, e)
}

func (q *queue) first() *entry {
	if len(q.list) == 0 {
		return nil
	}
	return q.list[0]
}

func (q *queue) remove(e *entry) {
	i, end := int(e.at[q.in]), len(q.list)-1
	last := q.list[end]
	q.list[end] = nil
	q.list = q.list[:end]
	if i != end {
		q.fix(i, last)
	}
}

// moved puts an entry right whose time changed.
func (q *queue) moved(e *entry) { q.fix(int(e.at[q.in]), e) }

// fix finds the place for an entry that may stand at i.
func (q *queue) fix(i int, e *entry) {
	if !q.up(i, e) {
		q.down(int(e.at[q.in]), e)
	}
}

// up tells whether it went further than i.
func (q *queue) up(i int, e *entry) bool {
	start := i
	for i > 0 {
		parent := (i - 1) / 2
		if !q.before(e, q.list[parent]) {
			break
		}
		q.set(i, q.list[parent])
		i = parent
	}
	q.set(i, e)
	return i != start
}

func (q *queue) down(i int, e *entry) {
	for {
		child := 2*i + 1
		if child >= len(q.list) {
			break
		}
		if child+1 < len(q.list) && q.before(q.list[child+1], q.list[child]) {
			child++
		}
		if !q.before(q.list[child], e) {
			break
		}
		q.set(i, q.list[child])
		i = child
	}
	q.set(i, e)
}
