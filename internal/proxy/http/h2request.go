// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"
	nethttp "net/http"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"github.com/stentor-net/stentor/internal/l7"
)

// h2Block is a header block as it was read.
type h2Block struct {
	raw    []byte
	list   []hpack.HeaderField
	size   int // as RFC 9113 counts it
	fields []l7.Field
	bad    *fault
}

// readBlock collects a header block: f and the frames that continue it.
func (s *side) readBlock(f frame, into []byte, limit int) ([]byte, error) {
	b, err := s.payload(f)
	if err != nil {
		return into, err
	}
	into = append(into, b...)
	s.use(f.size())
	for pieces := 1; f.flags&flagEndHeaders == 0; pieces++ {
		next, err := s.frame()
		if err != nil {
			return into, err
		}
		if next.kind != frameContinuation || next.stream != f.stream || pieces == maxPieces || len(into)+next.length > limit {
			return into, errProtocol
		}
		into = append(into, s.unread()[frameHead:next.size()]...)
		s.use(next.size())
		f.flags = next.flags
	}
	return into, nil
}

// headers takes a header block of the client: a request, or the trailer of one.
func (h *h2) headers(f frame) (err error) {
	b := &h.block
	if b.raw, err = h.client.readBlock(f, b.raw[:0], h.limits.Head); err != nil {
		return err
	}
	if f.stream%2 == 0 {
		return errProtocol
	}
	b.read(h.requests, h.inbound.Load(), h.limits.Head)
	if b.bad == errProtocolBlock {
		return errProtocol
	}
	end := f.flags&flagEnd != 0
	if f.stream <= h.opened {
		return h.trailer(f.stream, end)
	}
	h.opened = f.stream
	return h.request(f.stream, end)
}

var errProtocolBlock = &fault{400, "broken header compression"}

// read decodes the block. bad tells why it is no message.
func (b *h2Block) read(d *hpack.Decoder, table int64, limit int) {
	b.list, b.fields, b.size, b.bad = b.list[:0], b.fields[:0], 0, nil
	d.SetAllowedMaxDynamicTableSize(uint32(table))
	d.SetMaxStringLength(limit)
	d.SetEmitFunc(func(f hpack.HeaderField) {
		switch b.size += int(f.Size()); {
		case b.size > limit:
			b.bad = errLarge
		case len(b.list) >= maxFields+5:
			b.bad = errFields
		default:
			b.list = append(b.list, f)
		}
	})
	if _, err := d.Write(b.raw); err != nil {
		b.bad = errProtocolBlock
	} else if d.Close() != nil {
		b.bad = errProtocolBlock
	}
}

// trailer passes the end of a request on.
func (h *h2) trailer(id uint32, end bool) error {
	st := h.find(id)
	if !end {
		return errProtocol
	}
	if st != nil && st.denied {
		h.end(id, func(st *stream) { st.asked = true })
		return nil
	}
	if h.block.bad == nil {
		for _, f := range h.block.list {
			if bad := checkField(f.Name, f.Value); bad != nil || f.IsPseudo() {
				h.block.bad = errTrailer
			}
		}
	}
	if h.block.bad != nil {
		return errProtocol
	}
	h.encode()
	for _, f := range h.block.list {
		h.encoder.WriteField(f)
	}
	h.end(id, func(st *stream) { st.asked = true })
	return h.toServer.block(id, h.encoded, true)
}

// request judges a request and passes it on, or answers it.
func (h *h2) request(id uint32, end bool) error {
	st := &stream{asked: end}
	h.now = time.Now()
	q, path, bad := h.message()
	st.http = l7.HTTP{Protocol: "HTTP/2", Method: string(q.Method), Scheme: "http", Host: string(q.Host), Path: string(q.Path)}
	st.record = l7.Record{Time: h.now, Connection: h.id, HTTP: &st.http}
	if !h.start(id, st) {
		h.toClient.goaway(id, codeCalm)
		return errProtocol
	}
	if err := h.judge(); err != nil {
		return err
	}
	st.record.Ruling = h.ruling
	grpc := h.grpc()
	if bad != nil {
		st.record.Verdict, st.record.Reason = l7.Rejected, bad.reason
		return h.instead(id, st, bad.code, grpc)
	}
	h.edits = h.edits[:0]
	ok, limit, reason := allowed(h.srv.Rules, &h.ruling, &q, &h.edits)
	st.record.Limit, st.record.Reason = limit, reason
	if !ok {
		st.record.Verdict = l7.Denied
		return h.instead(id, st, nethttp.StatusForbidden, grpc)
	}
	for i := range h.edits {
		st.http.Mismatches = append(st.http.Mismatches, h.edits[i].Name)
	}
	h.encodeRequest(path)
	return h.toServer.block(id, h.encoded, end)
}

// message finds what rules see. path is the one to send, if it is not as it came.
func (h *h2) message() (q l7.HTTPRequest, path string, bad *fault) {
	b := &h.block
	var method, scheme, authority, target, protocol, host *string
	for i := range b.list {
		f := &b.list[i]
		if !f.IsPseudo() {
			if bad := checkField(f.Name, f.Value); bad != nil {
				b.bad = bad
			}
			if f.Name == "host" {
				if host != nil {
					b.bad = errHosts
				}
				host = &f.Value
			}
			b.fields = append(b.fields, l7.Field{Name: bytesOf(f.Name), Value: bytesOf(f.Value)})
			continue
		}
		var to **string
		switch f.Name {
		case ":method":
			to = &method
		case ":scheme":
			to = &scheme
		case ":authority":
			to = &authority
		case ":path":
			to = &target
		case ":protocol":
			to = &protocol
		}
		if to == nil || *to != nil || len(b.fields) > 0 {
			b.bad = errName
			continue
		}
		*to = &f.Value
	}
	if authority == nil {
		authority = host
	}
	for _, part := range []struct {
		from *string
		to   *[]byte
	}{{method, &q.Method}, {authority, &q.Host}, {target, &q.Path}} {
		if part.from != nil {
			*part.to = bytesOf(*part.from)
		}
	}
	q.Fields = b.fields
	switch {
	case b.bad != nil:
		return q, "", b.bad
	case method == nil || !all(q.Method, classToken) || len(q.Method) == 0:
		return q, "", errMethod
	case authority == nil || !all(q.Host, classAuthority):
		return q, "", errHost
	case host != nil && !strings.EqualFold(*host, *authority):
		return q, "", errHostMismatch
	case protocol != nil && (*method != "CONNECT" || !h.mayUpgrade(bytesOf(*protocol))):
		return q, "", errTarget
	case *method == "CONNECT" && protocol == nil:
		if target != nil || scheme != nil || !strings.Contains(*authority, ":") {
			return q, "", errTarget
		}
		return q, "", nil
	case target == nil || scheme == nil || *scheme != "http" && *scheme != "https" || !all(q.Path, classTarget):
		return q, "", errTarget
	case *target == "*" && *method == "OPTIONS":
		return q, "", nil
	case len(*target) == 0 || (*target)[0] != '/':
		return q, "", errTarget
	}
	return h.normal(q)
}

// normal brings the path into the one form.
func (h *h2) normal(q l7.HTTPRequest) (l7.HTTPRequest, string, *fault) {
	raw, query := q.Path, []byte(nil)
	if i := bytes.IndexByte(raw, '?'); i >= 0 {
		raw, query = raw[:i], raw[i:]
	}
	if simplePath(raw) {
		return q, "", nil
	}
	out, ok := normalPath(make([]byte, 0, len(q.Path)), raw)
	if !ok {
		return q, "", errPath
	}
	q.Path = append(out, query...)
	return q, string(q.Path), nil
}

// bytesOf is the text's bytes, for reading alone.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// checkField refuses fields that no message of HTTP/2 may have (RFC 9113, 8.2).
func checkField(name, value string) *fault {
	for i := range len(name) {
		if c := name[i]; class[c]&classToken == 0 || c >= 'A' && c <= 'Z' {
			return errName
		}
	}
	switch name {
	case "", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return errName
	case "te":
		if value != "trailers" {
			return errValue
		}
	}
	if !clean(bytesOf(value)) {
		return errValue
	}
	return nil
}

func (h *h2) grpc() bool {
	for i := range h.block.list {
		if f := &h.block.list[i]; f.Name == "content-type" {
			return f.Value == "application/grpc" || strings.HasPrefix(f.Value, "application/grpc+") || strings.HasPrefix(f.Value, "application/grpc;")
		}
	}
	return false
}

// encode begins a header block for the server.
func (h *h2) encode() {
	h.encoded = h.encoded[:0]
	if limit := h.tableLimit.Swap(-1); limit >= 0 {
		h.encoder.SetMaxDynamicTableSizeLimit(uint32(limit))
	}
}

// encodeRequest writes the request's block anew, with another path and edits if need be.
func (h *h2) encodeRequest(path string) {
	h.encode()
	for i, f := range h.block.list {
		if path != "" && f.Name == ":path" {
			f.Value = path
		}
		if !f.IsPseudo() && len(h.edits) > 0 && removed(h.edits, &l7.Field{Name: bytesOf(h.block.list[i].Name)}) {
			continue
		}
		h.encoder.WriteField(f)
	}
	for i := range h.edits {
		if e := &h.edits[i]; (e.Kind == l7.Append || e.Kind == l7.Replace) && !repeated(h.edits[:i], e) {
			h.encoder.WriteField(hpack.HeaderField{Name: strings.ToLower(e.Name), Value: e.Value, Sensitive: true})
		}
	}
}

// gRPC's codes for answers of ours.
const (
	grpcPermissionDenied = "7"
	grpcInternal         = "13"
)

// instead answers a request that the server never sees. The fields are written
// so that they leave the compression between server and client as it is.
func (h *h2) instead(id uint32, st *stream, code int, grpc bool) error {
	if err := h.toServer.flush(); err != nil {
		return err
	}
	<-h.settled // the first frame that a client sees is the server's settings
	st.denied, st.answered = true, true
	st.http.Code = code
	if h.srv.Recorder != nil {
		h.srv.Recorder.Record(&st.record)
	}
	text := strings.TrimSuffix(denied, "\r\n")
	if code != nethttp.StatusForbidden {
		text = nethttp.StatusText(code)
	}
	var b []byte
	body := ""
	if grpc {
		status := grpcInternal
		if code == nethttp.StatusForbidden {
			status = grpcPermissionDenied
		}
		b = literal(literal(b, ":status", "200"), "content-type", "application/grpc")
		b = literal(literal(b, "grpc-status", status), "grpc-message", text)
	} else {
		b = literal(b, ":status", strconv.Itoa(code))
		if body = text + "\r\n"; h.keep < len(body) || h.window.Load() < int64(len(body)) || st.http.Method == "HEAD" {
			body = "" // there is no window for it
		}
		b = literal(b, "content-type", "text/plain")
		if st.http.Method != "HEAD" {
			b = literal(b, "content-length", strconv.Itoa(len(body)))
		}
	}
	if err := h.toClient.block(id, b, body == ""); err != nil {
		return err
	}
	if body != "" {
		h.keep -= len(body)
		h.spent += len(body)
		f := frame{length: len(body), kind: frameData, flags: flagEnd, stream: id}
		if err := h.toClient.add(append(f.append(nil), body...)); err != nil {
			return err
		}
	}
	h.end(id, func(st *stream) { st.served = true })
	return nil
}

// literal appends a short field that enters no table (RFC 7541, 6.2.2).
func literal(b []byte, name, value string) []byte {
	b = append(b, 0, byte(len(name)))
	b = append(b, name...)
	b = append(b, byte(len(value)))
	return append(b, value...)
}
