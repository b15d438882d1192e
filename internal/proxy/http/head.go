// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"

	"github.com/stentor-net/stentor/internal/l7"
)

// maxFields is how many fields a head may have.
const maxFields = 100

// fault is why a message is refused: a code for the answer, and a reason
// without anything of the message.
type fault struct {
	code   int
	reason string
}

func (f *fault) Error() string { return f.reason }

// Reasons to refuse a message. All are counted by their text.
var (
	errRequestLine  = &fault{400, "bad request line"}
	errMethod       = &fault{400, "bad method"}
	errTarget       = &fault{400, "bad target"}
	errPath         = &fault{400, "bad path"}
	errVersion      = &fault{505, "unknown version"}
	errLineEnd      = &fault{400, "a line does not end in CR LF"}
	errFolded       = &fault{400, "folded header line"}
	errName         = &fault{400, "bad header name"}
	errValue        = &fault{400, "bad header value"}
	errFields       = &fault{431, "too many headers"}
	errLarge        = &fault{431, "headers too large"}
	errHost         = &fault{400, "bad host"}
	errHosts        = &fault{400, "not one host"}
	errHostMismatch = &fault{400, "host and target differ"}
	errLength       = &fault{400, "bad content-length"}
	errLengths      = &fault{400, "repeated content-length"}
	errCoding       = &fault{501, "unknown transfer-encoding"}
	errCodings      = &fault{400, "repeated transfer-encoding"}
	errLengthCoding = &fault{400, "content-length with transfer-encoding"}
	errOldCoding    = &fault{400, "transfer-encoding in HTTP/1.0"}
	errExpect       = &fault{417, "unknown expectation"}
	errConnection   = &fault{400, "connection names a header of the message"}
	errChunk        = &fault{400, "bad chunk"}
	errTrailer      = &fault{400, "bad trailer"}
	errHeadTime     = &fault{408, "headers took too long"}
	errStatusLine   = &fault{502, "bad status line of the server"}
	errServer       = &fault{502, "bad answer of the server"}
	errServerClosed = &fault{502, "the server closed without an answer"}
	errClientGone   = &fault{499, "the client left before the answer"}
	errSwitch       = &fault{502, "the server switched protocols unasked"}
	errUnreachable  = &fault{503, "no connection to the server"}
	errConnectBody  = &fault{400, "CONNECT with a body"}
)

// head is a message's, read strictly. Its slices are of the buffer it was read from.
type head struct {
	request
	status    int
	minor     byte // of HTTP/1: 0 or 1
	chunked   bool
	close     bool // after this message, by its version and fields
	keep      bool // keep-alive was asked for
	expect    bool // 100-continue
	length    int64
	upgrade   []byte // value of the field, nil without
	nominated bool   // connection names fields that are not known to be of the connection
	start     []byte // the first line
	fields    []l7.Field
	room      [maxFields]l7.Field
}

// request is what only requests have.
type request struct {
	method, target []byte
	host           []byte // authority
	path           []byte // path and query, in the one form; empty for CONNECT
	pathStart      int    // of path in target, if path is not rewritten
	rewritten      bool   // path is not as in target
	hosts          int
}

// noLength says that the head gives no length.
const noLength = -1

// headEnd finds the end of a head; 0 if it is not whole yet.
func headEnd(b []byte, from int) int {
	from = max(from-3, 0)
	if i := bytes.Index(b[from:], []byte("\r\n\r\n")); i >= 0 {
		return from + i + 4
	}
	return 0
}

// partial looks for what can never become a head, in what has come of it.
func partial(b []byte, from int) error {
	if len(b) > 0 && class[b[0]]&classToken == 0 {
		return errMethod
	}
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return nil
		}
		if from+i == 0 || b[from+i-1] != '\r' {
			return errLineEnd
		}
		from += i + 1
	}
}

// parseRequest reads a head that ends in an empty line. scratch has room for
// a path, should it need to be rewritten.
func (h *head) parseRequest(b, scratch []byte) error {
	rest, err := h.first(b)
	if err != nil {
		return err
	}
	if err := h.requestLine(); err != nil {
		return err
	}
	if err := h.parseFields(rest); err != nil {
		return err
	}
	if h.hosts > 1 || h.hosts == 0 && h.minor > 0 {
		return errHosts
	}
	if err := h.resolve(scratch); err != nil {
		return err
	}
	if h.length != noLength && h.chunked {
		return errLengthCoding
	}
	if h.chunked && h.minor == 0 {
		return errOldCoding
	}
	if h.nominated {
		return h.checkNominated()
	}
	return nil
}

// first splits off the first line and resets h.
func (h *head) first(b []byte) (rest []byte, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return nil, errLineEnd
	}
	h.request = request{}
	h.status, h.minor, h.length, h.upgrade = 0, 0, noLength, nil
	h.chunked, h.close, h.keep, h.expect, h.nominated = false, false, false, false, false
	h.start, h.fields = b[:i-1], h.room[:0]
	return b[i+1:], nil
}

func (h *head) requestLine() error {
	line := h.start
	i := bytes.IndexByte(line, ' ')
	if i < 1 {
		return errRequestLine
	}
	h.method = line[:i]
	if !all(h.method, classToken) {
		return errMethod
	}
	line = line[i+1:]
	if i = bytes.IndexByte(line, ' '); i < 1 {
		return errRequestLine
	}
	h.target = line[:i]
	if !all(h.target, classTarget) {
		return errTarget
	}
	return h.version(line[i+1:])
}

func (h *head) version(b []byte) error {
	switch string(b) {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
	default:
		if bytes.HasPrefix(b, []byte("HTTP/")) && len(b) == len("HTTP/1.1") {
			return errVersion
		}
		return errRequestLine
	}
	return nil
}

// parseStatus reads the head of an answer.
func (h *head) parseStatus(b []byte) error {
	rest, err := h.first(b)
	if err != nil {
		return errStatusLine
	}
	line := h.start
	const before = len("HTTP/1.1 ")
	if len(line) < before+3 || line[before-1] != ' ' || h.version(line[:before-1]) != nil || !clean(line) {
		return errStatusLine
	}
	for _, c := range line[before : before+3] {
		if c < '0' || c > '9' {
			return errStatusLine
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || h.status > 599 || len(line) > before+3 && line[before+3] != ' ' {
		return errStatusLine
	}
	if h.parseFields(rest) != nil || h.length != noLength && h.chunked {
		return errServer
	}
	return nil
}

func (h *head) parseFields(b []byte) error {
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 1 || b[i-1] != '\r' {
			return errLineEnd
		}
		line := b[:i-1]
		b = b[i+1:]
		if len(line) == 0 {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			return errFolded
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 1 || !all(line[:colon], classToken) {
			return errName
		}
		value := trim(line[colon+1:])
		if !clean(value) {
			return errValue
		}
		if len(h.fields) == maxFields {
			return errFields
		}
		h.fields = append(h.fields, l7.Field{Name: line[:colon], Value: value})
		if err := h.known(line[:colon], value); err != nil {
			return err
		}
	}
	if len(b) != 0 {
		return errLineEnd
	}
	h.close = h.close || h.minor == 0 && !h.keep
	return nil
}

// known takes in fields that say how the message is framed or the connection used.
func (h *head) known(name, value []byte) error {
	switch len(name) {
	case len("host"):
		if fold(name, "host") {
			h.host = value
			h.hosts++
		}
	case len("expect"):
		if fold(name, "expect") {
			if !fold(value, "100-continue") {
				return errExpect
			}
			h.expect = true
		}
	case len("upgrade"):
		if fold(name, "upgrade") {
			if h.upgrade != nil { // several offers: none is understood
				value = []byte(",")
			}
			h.upgrade = value
		}
	case len("connection"):
		if fold(name, "connection") {
			h.connection(value)
		}
	case len("content-length"):
		if fold(name, "content-length") {
			return h.contentLength(value)
		}
	case len("transfer-encoding"):
		if fold(name, "transfer-encoding") {
			if h.chunked {
				return errCodings
			}
			if !fold(value, "chunked") {
				return errCoding
			}
			h.chunked = true
		}
	}
	return nil
}

func (h *head) contentLength(value []byte) error {
	if h.length != noLength {
		return errLengths
	}
	if len(value) == 0 || len(value) > 18 {
		return errLength
	}
	n := int64(0)
	for _, c := range value {
		if c < '0' || c > '9' {
			return errLength
		}
		n = n*10 + int64(c-'0')
	}
	h.length = n
	return nil
}

// connection reads the options of a connection field.
func (h *head) connection(value []byte) {
	for more := true; more; {
		var option []byte
		option, value, more = bytes.Cut(value, []byte(","))
		switch option = trim(option); {
		case len(option) == 0:
		case fold(option, "keep-alive"):
			h.keep = true
		case fold(option, "close"):
			h.close = true
		case fold(option, "upgrade"), fold(option, "te"), fold(option, "http2-settings"), fold(option, "trailer"), fold(option, "proxy-connection"):
		default:
			h.nominated = true
		}
	}
}

// checkNominated refuses connection fields by which a server behind a further
// proxy would see another message than was judged.
func (h *head) checkNominated() error {
	for _, f := range h.fields {
		if !f.Is("connection") {
			continue
		}
		for value, more := f.Value, true; more; {
			var option []byte
			option, value, more = bytes.Cut(value, []byte(","))
			option = trim(option)
			for _, other := range h.fields {
				if len(option) > 0 && bytes.EqualFold(option, other.Name) && !ofConnection(option) {
					return errConnection
				}
			}
		}
	}
	return nil
}

// ofConnection tells whether a field is about the connection alone.
func ofConnection(name []byte) bool {
	for _, known := range []string{"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"} {
		if fold(name, known) {
			return true
		}
	}
	return false
}

// resolve finds host and path in the target (RFC 9112, 3.2).
func (h *head) resolve(scratch []byte) error {
	if !all(h.host, classAuthority) {
		return errHost
	}
	t := h.target
	switch {
	case string(h.method) == "CONNECT":
		if !all(t, classAuthority) || bytes.IndexByte(t, ':') < 1 {
			return errTarget
		}
		if h.hosts > 0 && len(h.host) > 0 && !bytes.EqualFold(h.host, t) && !bytes.EqualFold(h.host, t[:bytes.LastIndexByte(t, ':')]) {
			return errHostMismatch
		}
		if h.chunked || h.length > 0 {
			return errConnectBody
		}
		h.host = t
		return nil
	case t[0] == '/':
	case string(t) == "*":
		if string(h.method) != "OPTIONS" {
			return errTarget
		}
		h.path = t
		return nil
	default:
		if err := h.absolute(); err != nil {
			return err
		}
	}
	return h.normalise(scratch)
}

// absolute takes apart a target with scheme and authority.
func (h *head) absolute() error {
	t := h.target
	i := bytes.Index(t, []byte("://"))
	if i < 0 || !fold(t[:i], "http") && !fold(t[:i], "https") {
		return errTarget
	}
	start := i + len("://")
	end := len(t)
	if i := bytes.IndexAny(t[start:], "/?"); i >= 0 {
		end = start + i
	}
	authority := t[start:end]
	if len(authority) == 0 || !all(authority, classAuthority) || end == len(t) || t[end] != '/' {
		return errTarget
	}
	if h.hosts > 0 && !bytes.EqualFold(authority, h.host) {
		return errHostMismatch
	}
	h.host, h.pathStart = authority, end
	return nil
}

func (h *head) normalise(scratch []byte) error {
	raw := h.target[h.pathStart:]
	path, query := raw, []byte(nil)
	if i := bytes.IndexByte(raw, '?'); i >= 0 {
		path, query = raw[:i], raw[i:]
	}
	normal, ok := normalPath(scratch, path)
	if !ok {
		return errPath
	}
	if len(normal) == len(path) && &normal[0] == &path[0] {
		h.path = raw
		return nil
	}
	h.path, h.rewritten = append(normal, query...), true
	return nil
}
