// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// monitor tells the datapath's events to whoever listens, with names from the
// tables. Without a listener an event costs nothing but the call.
//
// mu guards listeners and lost.
type monitor struct {
	tables *tables
	node   string
	// policiesOf names the policies that select an endpoint. Optional.
	policiesOf func(id uint16) []string

	mu        sync.Mutex
	listeners map[chan rest.Event]filter
	lost      uint64
}

// listenerRoom is how many events may wait for a slow listener; what comes on
// top is lost to it, and counted.
const listenerRoom = 4096

func newMonitor(t *tables, node string) *monitor {
	return &monitor{tables: t, node: node, listeners: map[chan rest.Event]filter{}}
}

// tell gives an event to those who listen.
func (m *monitor) tell(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost += e.Lost
	if len(m.listeners) == 0 {
		return
	}
	if e.Lost > 0 {
		m.offer(rest.Event{Time: now(), Type: rest.EventLost, Node: m.node, Count: e.Lost})
	}
	if event := m.enrich(e); event.Type != "" { // others are not for people
		m.offer(event)
	}
}

// offer gives an event to all who want it. The caller holds mu.
func (m *monitor) offer(event rest.Event) {
	for ch, f := range m.listeners {
		if !f.matches(event) {
			continue
		}
		select {
		case ch <- event:
		default:
			m.lost++
		}
	}
}

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }

func (m *monitor) lostSoFar() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}

// serve streams events, one JSON object per line, until the caller goes.
func (m *monitor) serve(w http.ResponseWriter, r *http.Request) {
	f, err := newFilter(r.Form)
	if err != nil {
		answer(w, nil, err)
		return
	}
	ch := make(chan rest.Event, listenerRoom)
	m.mu.Lock()
	m.listeners[ch] = f
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.listeners, ch)
		m.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	flush.Flush()
	enc := json.NewEncoder(w)
	for {
		select {
		case e := <-ch:
			if enc.Encode(e) != nil {
				return
			}
			if len(ch) == 0 {
				flush.Flush()
			}
		case <-r.Context().Done():
			return
		}
	}
}

// points names where a packet was seen.
var points = []string{
	abi.PointToPod: "to-endpoint", abi.PointToProxy: "to-proxy", abi.PointToHost: "to-host", abi.PointToStack: "to-stack",
	abi.PointToOverlay: "to-overlay", abi.PointFromPod: "from-endpoint", abi.PointFromProxy: "from-proxy",
	abi.PointFromHost: "from-host", abi.PointFromStack: "from-stack", abi.PointFromOverlay: "from-overlay",
	abi.PointFromNetwork: "from-network", abi.PointToNetwork: "to-network",
}

var verdicts = []string{abi.VerdictDeny: "deny", abi.VerdictAllow: "allow", abi.VerdictRedirect: "redirect", abi.VerdictAudit: "audit"}

func (m *monitor) enrich(e Event) rest.Event {
	out := rest.Event{
		Time: now(), Node: m.node, Endpoint: e.Endpoint, Reply: e.Reply,
		Bytes: uint64(e.Length), Protocol: protocolName(e.Protocol), Direction: "egress",
	}
	if e.Ingress {
		out.Direction = "ingress"
	}
	if int(e.Point) < len(points) {
		out.Point = points[e.Point]
	}
	switch e.Type {
	case abi.EventDrop:
		out.Type, out.Reason, out.ReasonText, out.Verdict = rest.EventDrop, int(e.Reason), e.ReasonText, "deny"
	case abi.EventTrace:
		out.Type = rest.EventTrace
	case abi.EventVerdict:
		out.Type = rest.EventVerdict
		if int(e.Verdict) < len(verdicts) {
			out.Verdict = verdicts[e.Verdict]
		}
	}
	if e.Type == abi.EventVerdict || deniedByPolicy(out) || e.Reason == abi.ReasonIdentityUnknown {
		out.Cell = &rest.EventCell{Peer: e.Peer, Slot: e.Slot, Set: e.Set, Row: e.Row, Generation: e.Generation}
	}
	if e.Type != abi.EventTrace && m.policiesOf != nil {
		out.Policies = m.policiesOf(e.Endpoint)
	}
	out.Source = m.party(e.Source.Addr(), e.SourceIdentity)
	out.Dest = m.party(e.Destination.Addr(), e.DestinationIdentity)
	switch e.Protocol {
	case 1, 58:
		out.ICMPType, out.ICMPCode = int(e.Source.Port()), int(e.Destination.Port())
	default:
		out.Source.Port, out.Dest.Port = e.Source.Port(), e.Destination.Port()
	}
	if e.Protocol == 6 {
		out.TCPFlags = tcpFlags(e.TCPFlags)
	}
	return out
}

func tcpFlags(bits uint8) string {
	text := ""
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if bits&(1<<i) == 0 {
			continue
		}
		if text != "" {
			text += ","
		}
		text += name
	}
	return text
}

// party names one end of an event.
func (m *monitor) party(ip netip.Addr, id uint32) rest.EventParty {
	p := rest.EventParty{Identity: int64(id)}
	if ip.IsValid() {
		p.IP = ip.String()
		if a, ok := m.tables.addresses.Get(host(ip).String()); ok {
			if a.Namespace != "" {
				p.Pod = a.Namespace + "/" + a.Name
			} else {
				p.Node = a.Name
			}
			if id == 0 {
				p.Identity = int64(a.Identity)
			}
		}
	}
	if known, ok := m.tables.identities.Get(identity.ID(p.Identity).String()); ok {
		p.Labels = known.Labels.Strings()
	} else if name := identity.ID(p.Identity).Name(); name != "" {
		p.Labels = rest.Labels{label.SourceReserved + ":" + name}
	}
	return p
}
