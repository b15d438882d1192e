// SPDX-License-Identifier: Apache-2.0

package http

import (
	"encoding/binary"
	"strings"
)

// Classes of bytes in a head.
const (
	classToken     uint8 = 1 << iota // of methods and names of fields (RFC 9110, 5.6.2)
	classTarget                      // of a request's target
	classAuthority                   // of a host with its port
	classPlain                       // of a path that is in the one form already
	classHex
	classUnreserved // RFC 3986, 2.3
)

var class = func() (table [256]uint8) {
	set := func(chars string, c uint8) {
		for i := range len(chars) {
			table[chars[i]] |= c
		}
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	const digits = "0123456789"
	set(letters+digits+"!#$%&'*+-.^_`|~", classToken)
	set(letters+digits+"-._~", classUnreserved)
	set(digits+"abcdefABCDEF", classHex)
	set(letters+digits+"-._~!$&'()*+;=:[]%", classAuthority)
	for c := range 256 {
		if c > ' ' && c != 0x7f && c != '#' {
			table[c] |= classTarget
			if c < 0x80 && !strings.ContainsRune(`%\?`, rune(c)) {
				table[c] |= classPlain
			}
		}
	}
	return table
}()

// all tells whether every byte is of the class.
func all(b []byte, c uint8) bool {
	for _, x := range b {
		if class[x]&c == 0 {
			return false
		}
	}
	return true
}

// clean tells whether a field's value has no control characters but tabs.
func clean(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		del := x ^ 0x7f*ones
		if ((x-0x20*ones)&^x|(del-ones)&^del)&highs != 0 && !cleanSlow(b[:8]) {
			return false
		}
		b = b[8:]
	}
	return cleanSlow(b)
}

func cleanSlow(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// fold compares without the case of ASCII letters; b is in lower case.
func fold(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != b[i] {
			return false
		}
	}
	return true
}
