// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	flowpb "github.com/stentor-net/stentor/api/flow"
	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/flow"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// recorder turns the datapath's events, and the proxy's records, into records
// of flows. mu guards all of it.
type recorder struct {
	mu    sync.Mutex
	ring  *flow.Ring
	names *namer
	seen  func(*flow.Record)      // before a record is added; optional
	cause func(Event) *flow.Cause // which policies decided; optional

	clock func() time.Duration // since boot
	boot  int64                // ns since 1970 of the boot, as of boots
	boots time.Duration        // when that was looked at
	rec   flow.Record          // reused, so that an event allocates nothing
}

// clockEvery is how often the time of the boot is looked at again: clocks are set.
const clockEvery = time.Second

func newRecorder(ring *flow.Ring, names *namer) *recorder {
	return &recorder{ring: ring, names: names, clock: sinceBoot, boots: -clockEvery}
}

// record keeps an event.
func (r *recorder) record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Lost > 0 {
		r.ring.Lose(e.Lost)
	}
	if !r.fill(&r.rec, &e) {
		return
	}
	r.add(&r.rec)
}

func (r *recorder) add(rec *flow.Record) {
	if r.seen != nil {
		r.seen(rec)
	}
	r.ring.Add(rec)
}

// wall is the time of an event in ns since 1970.
func (r *recorder) wall(at time.Duration) int64 {
	if now := r.clock(); now-r.boots >= clockEvery || now < r.boots {
		r.boot, r.boots = time.Now().UnixNano()-int64(now), now
	}
	return r.boot + int64(at)
}

// sinceBoot is the clock of the datapath's events.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

// fill gives false for events that are no observations.
func (r *recorder) fill(rec *flow.Record, e *Event) bool {
	*rec = flow.Record{
		Time: r.wall(e.Time), Sequence: e.Sequence, CPU: e.CPU, Source: e.Source, Destination: e.Destination,
		SourceIdentity: e.SourceIdentity, DestinationIdentity: e.DestinationIdentity, Endpoint: e.Endpoint,
		IfIndex: e.IfIndex, Length: e.Length, Protocol: e.Protocol, TCPFlags: e.TCPFlags,
	}
	switch e.Type {
	case abi.EventDrop:
		rec.Type, rec.Verdict, rec.Reason = flow.TypeDrop, flowpb.Verdict_DROPPED, e.Reason
	case abi.EventTrace:
		rec.Type, rec.Verdict, rec.Point = flow.TypeTrace, flowpb.Verdict_FORWARDED, e.Point
		rec.Trace = flowpb.TraceReason_ESTABLISHED
		if e.Reply {
			rec.Trace = flowpb.TraceReason_REPLY
		}
		if e.Point == abi.PointToProxy {
			rec.Verdict = flowpb.Verdict_REDIRECTED
		}
	case abi.EventVerdict:
		rec.Type, rec.Verdict = flow.TypeVerdict, verdictOf(e.Verdict)
		if rec.Verdict == flowpb.Verdict_DROPPED {
			rec.Reason = e.Reason
		}
		rec.MatchType = matchType(e)
	default:
		return false
	}
	rec.Flags = flow.FlagEgress
	if e.Ingress {
		rec.Flags = flow.FlagIngress
	}
	if e.Type != abi.EventDrop || e.Reply { // a dropped packet may have had no connection
		rec.Flags |= flow.FlagReplyKnown
	}
	if e.Reply {
		rec.Flags |= flow.FlagReply
	}
	rec.SourceParty = r.names.party(e.Source.Addr(), identity.ID(e.SourceIdentity))
	rec.DestinationParty = r.names.party(e.Destination.Addr(), identity.ID(e.DestinationIdentity))
	if rec.SourceIdentity == 0 && rec.SourceParty != nil {
		rec.SourceIdentity = rec.SourceParty.Endpoint.GetIdentity()
	}
	if rec.DestinationIdentity == 0 && rec.DestinationParty != nil {
		rec.DestinationIdentity = rec.DestinationParty.Endpoint.GetIdentity()
	}
	if r.cause != nil && e.Type != abi.EventTrace {
		rec.Cause = r.cause(*e)
	}
	return true
}

func verdictOf(v uint8) flowpb.Verdict {
	switch v {
	case abi.VerdictAllow:
		return flowpb.Verdict_FORWARDED
	case abi.VerdictRedirect:
		return flowpb.Verdict_REDIRECTED
	}
	return flowpb.Verdict_DROPPED
}

// matchType says how much of a rule the verdict needed: the special sets need no more than the peer.
func matchType(e *Event) uint8 {
	if e.Slot == abi.SlotOpen {
		return flow.MatchAll
	}
	if e.Set < abi.SetFirst {
		return flow.MatchL3
	}
	return flow.MatchL3L4
}

// namer says who is behind an address. What it found is kept until the tables
// change; whoever is no longer in them keeps his name for a while, since
// packets outlive pods.
type namer struct {
	tables  *tables
	cluster string
	known   map[partyKey]*namedParty
	at      [3]uint64 // revisions of the tables that the names are of
}

type partyKey struct {
	addr netip.Addr
	id   identity.ID
}

type namedParty struct {
	party *flow.Party
	at    [3]uint64
	until time.Time // zero: is in the tables
}

const (
	nameRest = 5 * time.Minute // that a name outlives its address
	namesMax = 1 << 16         // then all are forgotten
)

func newNamer(t *tables, cluster string) *namer {
	return &namer{tables: t, cluster: cluster, known: map[partyKey]*namedParty{}}
}

// party gives nil for somebody of whom nothing is known.
func (n *namer) party(addr netip.Addr, id identity.ID) *flow.Party {
	n.at = [3]uint64{n.tables.addresses.Revision(), n.tables.identities.Revision(), n.tables.pods.Revision()}
	key := partyKey{addr, id}
	have := n.known[key]
	if have != nil && have.at == n.at {
		return have.party
	}
	found, named := n.find(addr, id)
	if have == nil {
		if len(n.known) >= namesMax {
			clear(n.known)
		}
		have = &namedParty{}
		n.known[key] = have
	}
	have.at = n.at
	switch {
	case named || have.party == nil || have.party.Endpoint.GetPodName() == "":
		have.party, have.until = found, time.Time{}
	case have.until.IsZero(): // the pod has just gone
		have.until = time.Now().Add(nameRest)
	case time.Now().After(have.until):
		have.party, have.until = found, time.Time{}
	}
	return have.party
}

// find asks the tables; named: the address belongs to somebody in them.
func (n *namer) find(addr netip.Addr, id identity.ID) (party *flow.Party, named bool) {
	out := &flowpb.Endpoint{ClusterName: n.cluster}
	node := ""
	if addr.IsValid() {
		if a, ok := n.tables.addresses.Get(host(addr).String()); ok && (id == 0 || a.Identity == id || a.Namespace == "") {
			named = true
			if id == 0 {
				id = a.Identity
			}
			if a.Namespace != "" {
				out.Namespace, out.PodName = a.Namespace, a.Name
			} else {
				node = a.Name
			}
			if a.Source == SourceEndpoint {
				for _, e := range n.tables.endpoints.Snapshot().Index("ip", addr.String()) {
					out.ID = uint32(e.ID)
				}
				if p, ok := n.tables.pods.Get(a.Namespace + "/" + a.Name); ok {
					if p.Workload.Name != "" {
						out.Workloads = []*flowpb.Workload{{Kind: p.Workload.Kind, Name: p.Workload.Name}}
					}
				}
			}
		}
	}
	if id == 0 && !named {
		return nil, false
	}
	out.Identity = uint32(id)
	if known, ok := n.tables.identities.Get(id.String()); ok {
		out.Labels = known.Labels.Strings()
		if ns, ok := known.Labels.Get(label.SourceK8s, label.KeyNamespace); ok && out.Namespace == "" {
			out.Namespace = ns
		}
	} else if name := id.Name(); name != "" {
		out.Labels = []string{label.SourceReserved + ":" + name}
	}
	return flow.NewParty(out, nil, node), named
}
