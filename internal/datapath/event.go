// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/maps"
)

// Event is what a program told about a packet.
type Event struct {
	Type, Reason, Verdict, Point, Protocol, TCPFlags uint8  // numbers of package abi
	ReasonText                                       string // drops: why
	Ingress, Reply                                   bool
	Source, Destination                              netip.AddrPort // ICMP: the ports are type and code
	SourceIdentity, DestinationIdentity              uint32
	Peer                                             uint32 // that the verdict was looked up for
	Endpoint                                         uint16 // whose policy decided, or who sent the packet
	Slot, Set, Row                                   uint16 // where the verdict stands
	Service                                          uint32
	CPU                                              uint16
	IfIndex                                          uint32
	Length                                           uint32        // bytes with the L2 header
	Generation                                       uint32        // of the endpoint when judged
	Sequence                                         uint64        // of the CPU; counts also what was lost
	Time                                             time.Duration // since boot
	Lost                                             uint64        // events of this CPU that were lost right before this one
}

// Numbers of protocols (IANA).
const (
	protoICMP   = 1
	protoICMPv6 = 58
)

// pollEvery is how long an event may wait: programs never wake the reader.
const pollEvery = 20 * time.Millisecond

type counters struct {
	read, lost atomic.Uint64
}

// Events calls f for each event until ctx ends. There is one reader per node at
// a time; f must not keep it waiting for long, or events are lost, and counted.
func (d *Datapath) Events(ctx context.Context, f func(Event)) error {
	m := d.tables.Map(abi.MapEvents)
	if m == nil {
		return errors.New("this version has no events")
	}
	r, err := ringbuf.NewReader(m)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	defer r.Close()
	next := map[uint16]uint64{} // sequence by CPU
	var rec ringbuf.Record
	for ctx.Err() == nil {
		r.SetDeadline(time.Now().Add(pollEvery))
		err := r.ReadInto(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if len(rec.RawSample) < int(unsafe.Sizeof(abi.Event{})) {
			continue // of a program of another version
		}
		raw := (*abi.Event)(unsafe.Pointer(&rec.RawSample[0]))
		e := decode(raw)
		if want, ok := next[raw.CPU]; ok && raw.Sequence > want {
			e.Lost = raw.Sequence - want
			d.events.lost.Add(e.Lost)
		}
		next[raw.CPU] = raw.Sequence + 1
		d.events.read.Add(1)
		f(e)
	}
	return nil
}

// EventCounts returns how many events were read and how many were lost since Start.
func (d *Datapath) EventCounts() (read, lost uint64) {
	return d.events.read.Load(), d.events.lost.Load()
}

func decode(r *abi.Event) Event {
	e := Event{Type: r.Type, Reason: r.Reason, Verdict: r.Verdict, Point: r.Point, Protocol: r.Protocol, TCPFlags: r.TCPFlags,
		Ingress: r.Ingress != 0, Reply: r.Flags&abi.EventFReply != 0,
		Source:         netip.AddrPortFrom(maps.Addr(r.Source), maps.Port(r.SourcePort)),
		Destination:    netip.AddrPortFrom(maps.Addr(r.Destination), maps.Port(r.DestinationPort)),
		SourceIdentity: r.SourceIdentity, DestinationIdentity: r.DestinationIdentity, Peer: r.Peer, Endpoint: r.Endpoint,
		Slot: r.Slot, Set: r.Set, Row: r.Row, Service: r.Service, CPU: r.CPU, IfIndex: r.Ifindex, Length: r.Length,
		Generation: r.Generation, Sequence: r.Sequence, Time: time.Duration(r.Time)}
	if e.Protocol == protoICMP || e.Protocol == protoICMPv6 {
		typeAndCode := maps.Port(r.SourcePort)
		e.Source = netip.AddrPortFrom(e.Source.Addr(), typeAndCode>>8)
		e.Destination = netip.AddrPortFrom(e.Destination.Addr(), typeAndCode&0xff)
	}
	if r.Type == abi.EventDrop {
		e.ReasonText = abi.ReasonText(r.Reason)
	}
	return e
}
