// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"errors"
	"fmt"
)

// Limits of RFC 1035, section 2.3.4, in bytes on the wire.
const (
	MaxLabel = 63
	MaxName  = 255 // with the lengths of the labels and the empty last one
)

// MaxText is how long the canonical form of a name can be.
const MaxText = 4 * MaxName

// Errors of names.
var (
	ErrCut    = errors.New("the name is cut off")
	ErrLong   = errors.New("the name is too long")
	ErrLabel  = errors.New("the name has a label of no known kind")
	ErrLoop   = errors.New("the name points to itself, or forward")
	ErrPacked = errors.New("the name is compressed where it must not be")
)

// Canonical is the one form of a name: lower case, with the last dot. Bytes that
// are special in text have a backslash, those that are not printable ASCII are
// \DDD. Names of international domains stay as they are on the wire.
func Canonical(text string) (string, error) {
	var wire [MaxName]byte
	n, err := pack(&wire, text)
	if err != nil {
		return "", fmt.Errorf("name %q: %w", text, err)
	}
	out, _, err := Unpack(make([]byte, 0, len(text)+1), wire[:n], 0, false)
	return string(out), err
}

// AppendWire appends a name in text form as labels, not compressed.
func AppendWire(dst []byte, text string) ([]byte, error) {
	var wire [MaxName]byte
	n, err := pack(&wire, text)
	if err != nil {
		return dst, fmt.Errorf("name %q: %w", text, err)
	}
	return append(dst, wire[:n]...), nil
}

var (
	errEmpty  = errors.New("it is empty")
	errDots   = errors.New("a label is empty")
	errEscape = errors.New("a backslash escapes nothing")
	errLabel  = fmt.Errorf("a label is longer than %d bytes", MaxLabel)
)

// pack writes the labels of a text and says how many bytes they take.
func pack(wire *[MaxName]byte, text string) (int, error) {
	if text == "" {
		return 0, errEmpty
	}
	if text == "." {
		wire[0] = 0
		return 1, nil
	}
	start, n := 0, 1 // of the label, with its length byte; next free byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '.' {
			if n == start+1 {
				return 0, errDots
			}
			wire[start] = byte(n - start - 1)
			start = n
			n++
			continue
		}
		if c == '\\' {
			var size int
			if c, size = escaped(text[i+1:]); size == 0 {
				return 0, errEscape
			}
			i += size
		}
		if n-start > MaxLabel {
			return 0, errLabel
		}
		if n >= MaxName-1 { // one is for the empty label
			return 0, ErrLong
		}
		wire[n] = c
		n++
	}
	if n == start+1 { // the last dot was there
		wire[start] = 0
		return n, nil
	}
	wire[start] = byte(n - start - 1)
	wire[n] = 0
	return n + 1, nil
}

// escaped reads what follows a backslash: three digits or one other byte.
func escaped(s string) (c byte, size int) {
	switch {
	case s == "":
		return 0, 0
	case s[0] < '0' || s[0] > '9':
		return s[0], 1
	case len(s) < 3 || s[1] < '0' || s[1] > '9' || s[2] < '0' || s[2] > '9':
		return 0, 0
	}
	if v := int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0'); v <= 255 {
		return byte(v), 3
	}
	return 0, 0
}

// plain tells which bytes stand for themselves in the canonical form, and as what.
var plain = func() (t [256]byte) {
	for c := '!'; c <= '~'; c++ {
		t[c] = byte(c)
	}
	for c := 'A'; c <= 'Z'; c++ {
		t[c] = byte(c) | 0x20
	}
	for _, c := range `.'@;()"\` {
		t[c] = 0
	}
	return t
}()

// Unpack appends the canonical form of the name at off in msg, and says where
// what follows it begins. packed: the name may be compressed (RFC 1035, section
// 4.1.4); then pointers must go back, so that none makes a loop. Errors come
// without details: a hot path meets them.
func Unpack(dst, msg []byte, off int, packed bool) (name []byte, next int, err error) {
	size, bound := 0, off // bytes on the wire; pointers must go below bound
	for {
		if off >= len(msg) {
			return dst, 0, ErrCut
		}
		n := int(msg[off])
		switch {
		case n == 0:
			if size == 0 {
				dst = append(dst, '.')
			}
			if next == 0 {
				next = off + 1
			}
			return dst, next, nil
		case n > MaxLabel && n < 0xc0:
			return dst, 0, ErrLabel
		case n >= 0xc0:
			if !packed {
				return dst, 0, ErrPacked
			}
			if off+1 >= len(msg) {
				return dst, 0, ErrCut
			}
			if next == 0 {
				next = off + 2
			}
			if off = n&0x3f<<8 | int(msg[off+1]); off >= bound {
				return dst, 0, ErrLoop
			}
			bound = off
			continue
		}
		if size += n + 1; size >= MaxName {
			return dst, 0, ErrLong
		}
		if off += n + 1; off > len(msg) {
			return dst, 0, ErrCut
		}
		dst = appendLabel(dst, msg[off-n:off])
	}
}

func appendLabel(dst, label []byte) []byte {
	for _, c := range label {
		switch p := plain[c]; {
		case p != 0:
			dst = append(dst, p)
		case c == ' ' || c > ' ' && c <= '~':
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
		}
	}
	return append(dst, '.')
}

// Skip says where what follows the name at off begins. Where a pointer leads is
// not looked at.
func Skip(msg []byte, off int) (next int, err error) {
	for size := 0; ; {
		if off >= len(msg) {
			return 0, ErrCut
		}
		n := int(msg[off])
		switch {
		case n == 0:
			return off + 1, nil
		case n >= 0xc0:
			if off+2 > len(msg) {
				return 0, ErrCut
			}
			return off + 2, nil
		case n > MaxLabel:
			return 0, ErrLabel
		}
		if size += n + 1; size >= MaxName {
			return 0, ErrLong
		}
		off += n + 1
	}
}
