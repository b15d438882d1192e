// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"

	"github.com/stentor-net/stentor/internal/l7"
)

// outgoing is the head as the server gets it: raw, or one written anew in
// w.out. upgrade tells whether it asks for another protocol.
func (c *conn) outgoing(w *work, raw []byte) (head []byte, upgrade bool) {
	req := &w.req
	upgrade = req.upgrade != nil && c.mayUpgrade(req.upgrade)
	strip := req.upgrade != nil && !upgrade
	edited := false
	for i := range w.edits {
		edited = edited || w.edits[i].Kind != l7.NoEdit
	}
	if !strip && !edited && !req.rewritten {
		return raw, upgrade
	}
	b := append(append(w.out[:0], req.method...), ' ')
	if req.rewritten {
		b = append(append(b, req.target[:req.pathStart]...), req.path...)
	} else {
		b = append(b, req.target...)
	}
	b = append(b, req.start[len(req.start)-len(" HTTP/1.1"):]...)
	b = append(b, "\r\n"...)
	for i := range req.fields {
		f := &req.fields[i]
		switch {
		case strip && (f.Is("upgrade") || f.Is("http2-settings")), removed(w.edits, f):
		case strip && f.Is("connection"):
			b = appendConnection(b, f.Value)
		default:
			b = appendField(b, f.Name, f.Value)
		}
	}
	for i := range w.edits {
		if e := &w.edits[i]; (e.Kind == l7.Append || e.Kind == l7.Replace) && !repeated(w.edits[:i], e) {
			b = append(append(append(append(b, e.Name...), ": "...), e.Value...), "\r\n"...)
		}
	}
	w.out = append(b, "\r\n"...)
	return w.out, upgrade
}

// mayUpgrade tells whether every protocol that is offered may be switched to.
// HTTP/2 may not: the rules would see nothing of it.
func (c *conn) mayUpgrade(offer []byte) bool {
	for more := true; more; {
		var protocol []byte
		protocol, offer, more = bytes.Cut(offer, []byte(","))
		known := false
		for _, p := range c.limits.Upgrades {
			known = known || fold(trim(protocol), p)
		}
		if !known {
			return false
		}
	}
	return true
}

// removed tells whether some edit takes the field out.
func removed(edits []l7.Edit, f *l7.Field) bool {
	for i := range edits {
		if k := edits[i].Kind; (k == l7.Remove || k == l7.Replace) && f.Is(edits[i].Name) {
			return true
		}
	}
	return false
}

// repeated tells whether an edit, which both sides' rules may ask for, was done already.
func repeated(edits []l7.Edit, e *l7.Edit) bool {
	for i := range edits {
		if o := &edits[i]; o.Kind == e.Kind && bytes.EqualFold([]byte(o.Name), []byte(e.Name)) && o.Value == e.Value {
			return true
		}
	}
	return false
}

// lastHead is an answer's head that ends the connection, and the start of its body.
func lastHead(w *work, body []byte) []byte {
	b := append(append(w.out[:0], w.res.start...), "\r\n"...)
	for i := range w.res.fields {
		if f := &w.res.fields[i]; !f.Is("connection") && !f.Is("keep-alive") {
			b = appendField(b, f.Name, f.Value)
		}
	}
	w.out = append(append(b, "Connection: close\r\n\r\n"...), body...)
	return w.out
}

func appendField(b, name, value []byte) []byte {
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

// appendConnection is a connection field without the options of an upgrade.
func appendConnection(b, value []byte) []byte {
	start := len(b)
	b = append(b, "Connection: "...)
	empty := len(b)
	for more := true; more; {
		var option []byte
		option, value, more = bytes.Cut(value, []byte(","))
		if option = trim(option); len(option) == 0 || fold(option, "upgrade") || fold(option, "http2-settings") {
			continue
		}
		if len(b) > empty {
			b = append(b, ", "...)
		}
		b = append(b, option...)
	}
	if len(b) == empty {
		return b[:start]
	}
	return append(b, "\r\n"...)
}
