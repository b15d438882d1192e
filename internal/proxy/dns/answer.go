// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/stentor-net/stentor/internal/dnsname"
)

// Bounds of what is read of an answer.
const (
	maxAliases = 32      // CNAMEs; the rest is not followed
	maxArena   = 1 << 18 // bytes of names as text
)

// answer is what is read of a server's message. Its slices are the reader's.
type answer struct {
	id, flags   uint16
	code        int
	name        []byte // of the question, canonical; nil: there is no question
	kind, class uint16
	// Of the name that was asked for, through its aliases.
	addrs   []netip.Addr
	ttl     uint32   // the least of addresses and aliases; 0: there are none
	aliases [][]byte // canonical, in the order of the message

	arena   []byte
	cnames  []cname
	holders []holder
}

type cname struct {
	owner, target []byte
	ttl           uint32
}

// holder is an address with the name it belongs to.
type holder struct {
	owner []byte
	addr  netip.Addr
	ttl   uint32
}

// readHead reads header and question, and says where the rest begins.
func (a *answer) readHead(msg []byte) (off int, f fault) {
	a.name, a.addrs, a.aliases, a.ttl = nil, a.addrs[:0], a.aliases[:0], 0
	if len(msg) < headerSize {
		return 0, noMessage
	}
	a.id, a.flags = binary.BigEndian.Uint16(msg), binary.BigEndian.Uint16(msg[2:])
	a.code = int(a.flags & maskCode)
	switch {
	case a.flags&flagAnswer == 0:
		return 0, notQuery
	case a.flags&maskOpcode != 0:
		return 0, otherOpcode
	}
	switch binary.BigEndian.Uint16(msg[4:]) {
	case 0:
		return headerSize, sound
	case 1:
	default:
		return 0, notOneAsked
	}
	name, next, err := dnsname.Unpack(a.arena[:0], msg, headerSize, false)
	a.arena = name
	if err != nil || next+4 > len(msg) {
		return 0, malformed
	}
	a.name, a.kind, a.class = name[:len(name):len(name)], binary.BigEndian.Uint16(msg[next:]), binary.BigEndian.Uint16(msg[next+2:])
	return next + 4, sound
}

// readRest reads what follows the question. One that was truncated may end
// anywhere; what was there until then counts.
func (a *answer) readRest(msg []byte, off int) fault {
	a.cnames, a.holders = a.cnames[:0], a.holders[:0]
	section := int(binary.BigEndian.Uint16(msg[6:]))
	all := section + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	last := holder{}
	lastOwner := -1 // where last.owner stands in msg
	for i := range all {
		r, ok := readRecord(msg, off)
		if !ok {
			if a.flags&flagTruncated != 0 {
				break
			}
			return malformed
		}
		off = r.data + r.size
		if i >= section {
			if r.kind == typeOPT { // RFC 6891, section 6.1.3
				a.code = int(r.ttl>>24)<<4 | int(a.flags&maskCode)
			}
			continue
		}
		if r.class != classInternet || a.class != classInternet || !a.wants(r.kind) || len(a.arena) > maxArena {
			continue
		}
		if at := pointer(msg, r.owner); at != lastOwner {
			if last.owner, ok = a.unpack(msg, at); !ok {
				return malformed
			}
			lastOwner = at
		}
		if ok := a.note(msg, r, last.owner); !ok {
			return malformed
		}
	}
	a.follow()
	return sound
}

// wants tells whether records of a type say something about addresses of the question.
func (a *answer) wants(kind uint16) bool {
	switch kind {
	case typeCNAME:
		return true
	case typeA, typeAAAA:
		return a.kind == kind || a.kind == typeAny
	}
	return false
}

// pointer is where a name stands: itself, or what it points to at once. Names
// that are the same are mostly written once.
func pointer(msg []byte, off int) int {
	if off+1 < len(msg) && msg[off] >= 0xc0 {
		if to := int(msg[off])&0x3f<<8 | int(msg[off+1]); to < off {
			return to
		}
	}
	return off
}

func (a *answer) unpack(msg []byte, off int) ([]byte, bool) {
	if off == headerSize && a.name != nil {
		return a.name, true
	}
	start := len(a.arena)
	whole, _, err := dnsname.Unpack(a.arena, msg, off, true)
	if err != nil {
		return nil, false
	}
	a.arena = whole
	return whole[start:len(whole):len(whole)], true
}

func (a *answer) note(msg []byte, r record, owner []byte) bool {
	data := msg[r.data : r.data+r.size]
	ttl := r.ttl
	if ttl > math.MaxInt32 { // RFC 2181, section 8
		ttl = 0
	}
	switch r.kind {
	case typeA:
		if len(data) != 4 {
			return false
		}
		a.holders = append(a.holders, holder{owner, netip.AddrFrom4([4]byte(data)), ttl})
	case typeAAAA:
		if len(data) != 16 {
			return false
		}
		a.holders = append(a.holders, holder{owner, netip.AddrFrom16([16]byte(data)), ttl})
	case typeCNAME:
		start := len(a.arena)
		whole, next, err := dnsname.Unpack(a.arena, msg, r.data, true)
		if err != nil || next != r.data+r.size {
			return false
		}
		if a.arena = whole; len(a.cnames) < maxAliases {
			target := whole[start:len(whole):len(whole)]
			a.cnames = append(a.cnames, cname{owner, target, ttl})
			a.aliases = append(a.aliases, target)
		}
	}
	return true
}

// follow goes from the name that was asked for through its aliases, and takes
// the addresses of all of them.
func (a *answer) follow() {
	if a.name == nil {
		return
	}
	at, least, hops := a.name, uint32(math.MaxUint32), 0
	for {
		least = a.take(at, least)
		i := 0
		for i < len(a.cnames) && !bytes.Equal(a.cnames[i].owner, at) {
			i++
		}
		if hops++; i == len(a.cnames) || hops > maxAliases {
			break
		}
		at, least = a.cnames[i].target, min(least, a.cnames[i].ttl)
	}
	if len(a.addrs) > 0 || len(a.cnames) > 0 {
		a.ttl = least
	}
	if least == math.MaxUint32 {
		a.ttl = 0
	}
}

// take adds the addresses of a name, each once.
func (a *answer) take(name []byte, least uint32) uint32 {
	for i := range a.holders {
		h := &a.holders[i]
		if h.addr.IsValid() && bytes.Equal(h.owner, name) {
			a.addrs = append(a.addrs, h.addr)
			least = min(least, h.ttl)
			h.addr = netip.Addr{}
		}
	}
	return least
}
