// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bytes"
	"unicode/utf8"
)

// normalPath brings the path of a target, before any "?", into the one form
// that rules judge and the server gets. It gives path itself if that is in the
// form already, else writes to out, which must have room for len(path) bytes.
//
//   - Escapes of unreserved characters are decoded ("%7Euser" -> "~user"), the
//     others get capital digits. An escaped slash stays escaped.
//   - "." and ".." segments are taken out, written plainly or escaped. ".." at
//     the root goes nowhere.
//   - Empty segments stay: "//a" is not "/a".
//   - A broken escape, an escaped NUL, a backslash and what is not UTF-8 are refused.
func normalPath(out, path []byte) ([]byte, bool) {
	if simplePath(path) {
		return path, true
	}
	out = out[:0]
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '\\':
			return nil, false
		case c != '%':
			out = append(out, c)
			continue
		case i+2 >= len(path) || class[path[i+1]]&class[path[i+2]]&classHex == 0:
			return nil, false
		}
		c = unhex(path[i+1])<<4 | unhex(path[i+2])
		switch {
		case c == 0:
			return nil, false
		case class[c]&classUnreserved != 0:
			out = append(out, c)
		default:
			out = append(out, '%', upper(path[i+1]), upper(path[i+2]))
		}
		i += 2
	}
	return removeDots(out), utf8.Valid(out)
}

// simplePath tells whether nothing has to be done. It may be wrong only about
// paths with "/." in them, which are few.
func simplePath(path []byte) bool {
	last := byte(0)
	for _, c := range path {
		if class[c]&classPlain == 0 || c == '.' && last == '/' {
			return false
		}
		last = c
	}
	return true
}

// removeDots takes out dot segments in place (RFC 3986, 5.2.4).
func removeDots(path []byte) []byte {
	if !bytes.Contains(path, []byte("/.")) {
		return path
	}
	n := 0 // what of path is written
	for i := 0; i < len(path); {
		end := i + 1 // of the segment with its slash before
		for end < len(path) && path[end] != '/' {
			end++
		}
		last := end == len(path)
		switch string(path[i:end]) {
		case "/.":
		case "/..":
			if n > 0 {
				n = bytes.LastIndexByte(path[:n], '/')
			}
		default:
			n += copy(path[n:], path[i:end])
			last = false
		}
		if last { // "/a/." is "/a/"
			path[n] = '/'
			n++
		}
		i = end
	}
	return path[:n]
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

func upper(c byte) byte {
	if c >= 'a' {
		return c &^ 0x20
	}
	return c
}
