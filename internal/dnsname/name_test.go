// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"errors"
	"strings"
	"testing"
)

func TestOneFormForEveryWayToWriteAName(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct{ in, want string }{
		{".", "."},
		{"Example.COM", "example.com."},
		{"example.com.", "example.com."},
		{"_SIP._tcp.x-Y.", "_sip._tcp.x-y."},
		{`a\.b.example`, `a\.b.example.`},
		{`a\046b.example`, `a\.b.example.`},
		{`\065b`, "ab."},
		{`sp\032ace`, `sp\ ace.`},
		{"grün.de", `gr\195\188n.de.`},
		{"xn--grn-hoa.de", "xn--grn-hoa.de."},
		{`nul\000.x`, `nul\000.x.`},
		{`a\@\"b`, `a\@\"b.`},
		{long + "." + long + "." + long + "." + long[:61], long + "." + long + "." + long + "." + long[:61] + "."},
	} {
		got, err := Canonical(c.in)
		if err != nil || got != c.want {
			t.Errorf("Canonical(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
		if again, err := Canonical(got); err != nil || again != got {
			t.Errorf("the canonical form %q becomes %q, %v", got, again, err)
		}
	}
}

func TestNamesBeyondTheLimitsAreRefused(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, in := range []string{
		"", "..", ".a", "a..b", "a..", `a\`, `a\25`, `a\256`, `a\2b5`,
		long + "a.b",
		long + "." + long + "." + long + "." + long[:62],
		strings.Repeat("a.", 128),
	} {
		if got, err := Canonical(in); err == nil {
			t.Errorf("Canonical(%q) = %q, but it is no name", in, got)
		}
	}
}

func TestCompressedNamesEndOrAreRefused(t *testing.T) {
	msg := []byte("\x03com\x00" + "\x07Example\xc0\x00" + "\x03www\xc0\x05" + "\xc0\x11" + "\xc0\x17" + "\x80" + "\x02a")
	for _, c := range []struct {
		off  int
		name string
		next int
		err  error
	}{
		{0, "com.", 5, nil},
		{5, "example.com.", 15, nil},
		{15, "www.example.com.", 21, nil},
		{21, "", 0, ErrCut}, // to the middle of a label
		{23, "", 0, ErrLoop},
		{25, "", 0, ErrLabel},
		{26, "", 0, ErrCut},
		{40, "", 0, ErrCut},
	} {
		name, next, err := Unpack(nil, msg, c.off, true)
		if c.off == 21 { // the text "w" of www is read as a length beyond 63
			if err == nil {
				t.Errorf("at 21: %q", name)
			}
			continue
		}
		if !errors.Is(err, c.err) || err == nil && (string(name) != c.name || next != c.next) {
			t.Errorf("at %d: %q %d %v, want %q %d %v", c.off, name, next, err, c.name, c.next, c.err)
		}
	}
	if _, _, err := Unpack(nil, msg, 5, false); !errors.Is(err, ErrPacked) {
		t.Errorf("a compressed name where none may be: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("\x03com\x00\x07Example\xc0\x00"), 5)
	f.Add([]byte("\xc0\x00"), 0)
	f.Add([]byte("\x01.\x02\\\x00\x00"), 0)
	f.Fuzz(func(t *testing.T, msg []byte, off int) {
		if off < 0 {
			return
		}
		name, next, err := Unpack(nil, msg, off, true)
		if err != nil {
			return
		}
		if len(name) > MaxText || next <= off || next > len(msg) {
			t.Fatalf("%q of %d bytes, next %d after %d of %d", name, len(name), next, off, len(msg))
		}
		if skip, err := Skip(msg, off); err != nil || skip != next {
			t.Fatalf("Skip says %d %v, Unpack %d", skip, err, next)
		}
		if again, err := Canonical(string(name)); err != nil || again != string(name) {
			t.Fatalf("%q becomes %q, %v", name, again, err)
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"Example.com", `a\.b\000.`, ".", `\`, "a..b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := Canonical(text)
		if err != nil {
			return
		}
		wire, err := AppendWire(nil, name)
		if err != nil || len(wire) > MaxName {
			t.Fatalf("%q: %d bytes, %v", name, len(wire), err)
		}
		if back, next, err := Unpack(nil, wire, 0, false); err != nil || string(back) != name || next != len(wire) {
			t.Fatalf("%q comes back as %q, %v", name, back, err)
		}
	})
}
