// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"

	"github.com/stentor-net/stentor/internal/dnsname"
)

// Parts of the header: RFC 1035, section 4.1.1.
const (
	headerSize = 12

	flagAnswer    = 1 << 15
	maskOpcode    = 15 << 11
	flagTruncated = 1 << 9
	flagRecurse   = 1 << 8 // the client wants it
	flagRecurses  = 1 << 7 // the server does it
	flagUnchecked = 1 << 4 // checking disabled
	maskCode      = 15
)

// Codes of answers.
const (
	codeFormat      = 1
	codeServer      = 2
	codeName        = 3
	codeUnsupported = 4
	codeRefused     = 5
)

// Types and classes.
const (
	typeA     = 1
	typeCNAME = 5
	typeAAAA  = 28
	typeOPT   = 41
	typeIXFR  = 251
	typeAXFR  = 252
	typeAny   = 255

	classInternet = 1
)

// fault is what is wrong with a message.
type fault uint8

const (
	sound       fault = iota
	noMessage         // shorter than a header
	notQuery          // an answer where a query is wanted, or the reverse
	otherOpcode       // not a query of RFC 1035
	notOneAsked       // no question, or several
	malformed         // not as the RFCs have it
	notAskedFor       // no question waits for this answer
)

// reason says it in a record.
func (f fault) reason() string {
	switch f {
	case noMessage:
		return "not a DNS message"
	case notQuery:
		return "not a DNS query"
	case otherOpcode:
		return "an operation other than a query"
	case notOneAsked:
		return "not exactly one question"
	case malformed:
		return "malformed DNS message"
	case notAskedFor:
		return "an answer that nobody asked for"
	}
	return ""
}

// code is the answer to a query with the fault; 0: there is none.
func (f fault) code() uint16 {
	switch f {
	case otherOpcode:
		return codeUnsupported
	case notOneAsked, malformed:
		return codeFormat
	}
	return 0
}

// query is what is read of a client's message. Its slices are the reader's.
type query struct {
	id, flags   uint16
	name        []byte // canonical
	kind, class uint16
	question    []byte // on the wire
	edns        bool
	ednsFlags   uint16
	text        [dnsname.MaxText]byte // room for name
}

// read takes a message apart. With a fault, id and flags are good unless it is
// noMessage, and question is nil unless it was read.
func (q *query) read(msg []byte) fault {
	q.question, q.name, q.kind, q.class, q.edns, q.ednsFlags = nil, nil, 0, 0, false, 0
	if len(msg) < headerSize {
		return noMessage
	}
	q.id, q.flags = binary.BigEndian.Uint16(msg), binary.BigEndian.Uint16(msg[2:])
	switch {
	case q.flags&flagAnswer != 0:
		return notQuery
	case q.flags&maskOpcode != 0:
		return otherOpcode
	case binary.BigEndian.Uint16(msg[4:]) != 1:
		return notOneAsked
	}
	name, next, err := dnsname.Unpack(q.text[:0], msg, headerSize, false)
	if err != nil || next+4 > len(msg) {
		return malformed
	}
	q.name, q.kind, q.class = name, binary.BigEndian.Uint16(msg[next:]), binary.BigEndian.Uint16(msg[next+2:])
	q.question = msg[headerSize : next+4]
	authority := int(binary.BigEndian.Uint16(msg[8:]))
	if binary.BigEndian.Uint16(msg[6:]) != 0 || authority > 1 || authority == 1 && q.kind != typeIXFR {
		return malformed
	}
	return q.readRest(msg, next+4, authority+int(binary.BigEndian.Uint16(msg[10:])))
}

// readRest goes through n records, with which the message must end.
func (q *query) readRest(msg []byte, off, n int) fault {
	for ; n > 0; n-- {
		r, ok := readRecord(msg, off)
		if !ok {
			return malformed
		}
		if r.kind == typeOPT {
			if q.edns || msg[off] != 0 {
				return malformed
			}
			q.edns, q.ednsFlags = true, uint16(r.ttl)
		}
		off = r.data + r.size
	}
	if off != len(msg) {
		return malformed
	}
	return sound
}

// record is the place of a resource record.
type record struct {
	owner       int // of its name
	kind, class uint16
	ttl         uint32
	data, size  int
}

func readRecord(msg []byte, off int) (record, bool) {
	next, err := dnsname.Skip(msg, off)
	if err != nil || next+10 > len(msg) {
		return record{}, false
	}
	r := record{
		owner: off, kind: binary.BigEndian.Uint16(msg[next:]), class: binary.BigEndian.Uint16(msg[next+2:]),
		ttl: binary.BigEndian.Uint32(msg[next+4:]), data: next + 10, size: int(binary.BigEndian.Uint16(msg[next+8:])),
	}
	return r, r.data+r.size <= len(msg)
}

// ednsSize is the size of datagrams that our own answers tell: RFC 6891, section 6.2.5,
// and what fits every network without fragments.
const ednsSize = 1232

// appendReply appends our own answer to a query, or to what is known of it.
func appendReply(dst []byte, q *query, code uint16) []byte {
	flags := flagAnswer | flagRecurses | q.flags&(maskOpcode|flagRecurse|flagUnchecked) | code
	dst = binary.BigEndian.AppendUint16(dst, q.id)
	dst = binary.BigEndian.AppendUint16(dst, flags)
	questions, additional := uint16(0), uint16(0)
	if q.question != nil {
		questions = 1
	}
	if q.edns {
		additional = 1
	}
	dst = binary.BigEndian.AppendUint16(dst, questions)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, additional)
	dst = append(dst, q.question...)
	if !q.edns {
		return dst
	}
	const secure = 1 << 15 // the client understands DNSSEC: RFC 3225 wants it back
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint16(dst, typeOPT)
	dst = binary.BigEndian.AppendUint16(dst, ednsSize)
	dst = binary.BigEndian.AppendUint32(dst, uint32(q.ednsFlags&secure))
	return binary.BigEndian.AppendUint16(dst, 0)
}
