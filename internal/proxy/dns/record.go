// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// maxTexts bounds how many texts are kept to be used again.
const maxTexts = 4096

// texts keeps names and addresses as strings: the same ones come again and again.
// It is for one goroutine.
type texts struct {
	names map[string]string
	addrs map[netip.Addr]string
}

func (t *texts) name(b []byte) string {
	if s, ok := t.names[string(b)]; ok {
		return s
	}
	if t.names == nil || len(t.names) >= maxTexts {
		t.names = make(map[string]string)
	}
	s := string(b)
	t.names[s] = s
	return s
}

func (t *texts) addr(a netip.Addr) string {
	if s, ok := t.addrs[a]; ok {
		return s
	}
	if t.addrs == nil || len(t.addrs) >= maxTexts {
		t.addrs = make(map[netip.Addr]string)
	}
	s := a.String()
	t.addrs[a] = s
	return s
}

// scribe writes records. It is for one goroutine.
type scribe struct {
	to    l7.Recorder // nil: none are written
	texts texts
	r     l7.Record
	dns   l7.DNS
}

func (w *scribe) begin(now time.Time, c l7.Connection, r *l7.Ruling, limit l7.Limit, v l7.Verdict, reason string) {
	w.r = l7.Record{Time: now, Connection: c, Ruling: *r, Limit: limit, Verdict: v, Reason: reason, DNS: &w.dns}
	w.dns = l7.DNS{IPs: w.dns.IPs[:0], CNAMEs: w.dns.CNAMEs[:0]}
}

// question records a question, and what became of it.
func (w *scribe) question(now time.Time, c l7.Connection, r *l7.Ruling, limit l7.Limit, v l7.Verdict, reason, name string, kind uint16) {
	if w.to == nil {
		return
	}
	w.begin(now, c, r, limit, v, reason)
	w.dns.Name, w.dns.Type = name, kind
	w.to.Record(&w.r)
}

// refusal records a message with a fault. What was read of it may be nothing.
func (w *scribe) refusal(now time.Time, c l7.Connection, r *l7.Ruling, f fault, q *query) {
	if w.to == nil {
		return
	}
	name := ""
	if q.name != nil {
		name = w.texts.name(q.name)
	}
	var limit l7.Limit
	if len(r.Limits) > 0 {
		limit = r.Limits[0]
	}
	w.question(now, c, r, limit, l7.Rejected, f.reason(), name, q.kind)
}

// answer records an answer to a question.
func (w *scribe) answer(now time.Time, c l7.Connection, r *l7.Ruling, asked *ask, a *answer) {
	if w.to == nil {
		return
	}
	w.begin(asked.time, c, r, asked.limit, l7.Forwarded, "")
	w.r.Latency = max(now.Sub(asked.time), 1)
	w.dns.Name, w.dns.Type, w.dns.Answer, w.dns.Code, w.dns.TTL = asked.name, asked.kind, true, a.code, a.ttl
	for _, addr := range a.addrs {
		w.dns.IPs = append(w.dns.IPs, w.texts.addr(addr))
	}
	for _, name := range a.aliases {
		w.dns.CNAMEs = append(w.dns.CNAMEs, w.texts.name(name))
	}
	w.to.Record(&w.r)
}

// failure records that we answer a question that no server answered.
func (w *scribe) failure(now time.Time, c l7.Connection, r *l7.Ruling, asked *ask, code int, reason string) {
	if w.to == nil {
		return
	}
	w.begin(asked.time, c, r, asked.limit, l7.Rejected, reason)
	w.r.Latency = max(now.Sub(asked.time), 1)
	w.dns.Name, w.dns.Type, w.dns.Answer, w.dns.Code = asked.name, asked.kind, true, code
	w.to.Record(&w.r)
}
