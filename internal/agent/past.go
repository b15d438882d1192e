// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"sync"
	"time"

	"github.com/stentor-net/stentor/internal/policy"
)

// past keeps what policy was in force at which moment, so that an event that
// comes late is explained by the policy that judged its packet.
//
// mu guards all fields.
type past struct {
	mu    sync.Mutex
	now   *policy.Explainer
	since time.Time
	old   []moment // in order of time
}

// moment is policy that was in force until another one was.
type moment struct {
	ruling      *policy.Ruling
	from, until time.Time
}

const (
	pastFor = time.Minute
	pastMax = 256 // moments; a flood of changes loses the oldest
)

// add says that the explainer holds from now on.
func (p *past) add(x *policy.Explainer, at time.Time) {
	if x == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil && !p.now.Ruling.Same(x.Ruling) {
		p.old = append(p.old, moment{p.now.Ruling, p.since, at})
		p.since = at
	} else if p.now == nil {
		p.since = at
	}
	p.now = x
	drop := max(0, len(p.old)-pastMax)
	for drop < len(p.old) && at.Sub(p.old[drop].until) > pastFor {
		drop++
	}
	p.old = append(p.old[:0:0], p.old[drop:]...)
}

// current is the explainer of now; nil before the first policy is in force.
func (p *past) current() *policy.Explainer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// revision of the policy in force; 0 before the first.
func (p *past) revision() uint64 {
	if x := p.current(); x != nil {
		return x.Revision()
	}
	return 0
}

// around gives the explainers that may have judged a packet whose event was
// read at a moment, the likeliest first. reach says whether that moment is not
// further back than what is kept.
func (p *past) around(at time.Time) (list []*policy.Explainer, reach bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		return nil, false
	}
	// An event is read some time after its packet, and a change takes some time.
	const near = time.Second
	kept := []moment{{p.now.Ruling, p.since, at.Add(time.Hour)}}
	for i := len(p.old) - 1; i >= 0; i-- {
		kept = append(kept, p.old[i])
	}
	for _, exact := range []bool{true, false} {
		for _, m := range kept {
			inside := !at.Before(m.from) && at.Before(m.until)
			close := !at.Before(m.from.Add(-near)) && at.Before(m.until.Add(near))
			if exact && inside || !exact && !inside && close {
				list = append(list, p.now.Under(m.ruling))
			}
		}
	}
	return list, len(list) > 0
}
