// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestPatternsMatchAsTheRulesSay(t *testing.T) {
	for _, c := range []struct{ pattern, yes, no string }{
		{"*", ". com. a.b.c.example.com. sp\\ ace.x. a\\.b.", ""},
		{"example.com", "example.com.", "www.example.com. com. . xexample.com."},
		{"Example.COM.", "example.com.", "example.org."},
		{"*.example.com", "www.example.com. x_-1.example.com.", "example.com. a.b.example.com. a\\.b.example.com. wwwexample.com. .example.com."},
		{"**.example.com", "www.example.com. a.b.example.com. a.b.c.d.example.com.", "example.com. a\\.b.example.com. xexample.com. a.b\\.example.com. www.example.org."},
		{"sub*.example.com", "sub.example.com. sub1.example.com. subway.example.com.", "su.example.com. sub.x.example.com. xsub.example.com."},
		{"*sub*.example.*", "sub.example.com. xsuby.example.x.", "sb.example.com. sub.example.com.x. sub.example."},
		{"*.*.example.com", "a.b.example.com.", "a.example.com. a.b.c.example.com."},
		{"**.a*.com", "x.a.com. x.y.abc.com.", "abc.com. x.b.com. x.y.com. a.com."},
		{"**", "com.", ". a.com."},
		{"*.", "com.", ". a.com."},
		{"**.com", "a.com. a.b.com.", "com."},
		{"a**.com", "a.com. abc.com.", "a.b.com. b.com."},
		{"a.**.com", "a.b.com. a.bcd.com.", "a.com. a.b.c.com."},
		{"*a*b*.x", "ab.x. xaxbx.x. aab.x. abab.x.", "ba.x. a.b.x. a.x."},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		var m Matcher
		m.Add(p)
		for _, name := range strings.Split(c.yes, ". ") {
			name = whole(name)
			if !p.Match(name) || !m.Match(name) {
				t.Errorf("%q does not match %q (alone %v, among many %v)", c.pattern, name, p.Match(name), m.Match(name))
			}
		}
		for _, name := range strings.Split(c.no, ". ") {
			if name = whole(name); c.no != "" && (p.Match(name) || m.Match(name)) {
				t.Errorf("%q matches %q (alone %v, among many %v)", c.pattern, name, p.Match(name), m.Match(name))
			}
		}
	}
	if (Pattern{}).Match("a.") || (&Matcher{}).Match("a.") {
		t.Error("a pattern that says nothing matches")
	}
}

// whole puts back the last dot that the list's separator took.
func whole(name string) string {
	if strings.HasSuffix(name, ".") {
		return name
	}
	return name + "."
}

var (
	nameOfCRD    = regexp.MustCompile(`^([-a-zA-Z0-9_]+[.]?)+$`)
	patternOfCRD = regexp.MustCompile(`^([-a-zA-Z0-9_*]+[.]?)+$`)
)

func TestWhatTheCRDRefusesIsRefused(t *testing.T) {
	for _, text := range []string{"", ".", "..", "a..b", ".a", "a.", "a b", "a\\.b", "grün.de", "*", "*.a", "**.a.", "a:b", strings.Repeat("a.", 127) + "b", strings.Repeat("a", 256), "_x.Y-1"} {
		_, err := ParseName(text)
		if want := nameOfCRD.MatchString(text) && len(text) <= 255; want != (err == nil) && len(text) < 250 {
			t.Errorf("matchName %q: %v, the CRD says %v", text, err, want)
		}
		_, err = ParsePattern(text)
		if want := patternOfCRD.MatchString(text) && len(text) <= 255; want != (err == nil) {
			t.Errorf("matchPattern %q: %v, the CRD says %v", text, err, want)
		}
	}
}

// expression is the meaning of a pattern, written down a second time.
func expression(pattern string) *regexp.Regexp {
	if pattern == "*" {
		return regexp.MustCompile(`.*`)
	}
	text, head := strings.ToLower(strings.TrimSuffix(pattern, "."))+".", ""
	if rest, ok := strings.CutPrefix(text, "**."); ok && rest != "" {
		text, head = rest, `([-a-z0-9_]+\.)+`
	}
	text = strings.ReplaceAll(strings.ReplaceAll(text, ".", `\.`), "*", `[-a-z0-9_]*`)
	return regexp.MustCompile(`^` + head + text + `$`)
}

func TestPatternsMatchWhatTheirExpressionMatches(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	text := func(alphabet string, most int) string {
		b := make([]byte, 1+rnd.IntN(most))
		for i := range b {
			b[i] = alphabet[rnd.IntN(len(alphabet))]
		}
		return string(b)
	}
	matched := 0
	for range 60000 {
		pattern := text("ab.*", 8)
		if rnd.IntN(4) == 0 {
			pattern = "**." + pattern
		}
		p, err := ParsePattern(pattern)
		if err != nil {
			continue
		}
		want := expression(pattern)
		var m Matcher
		m.Add(p)
		for range 8 {
			name, err := Canonical(text("aab.\\", 9))
			if err != nil {
				continue
			}
			yes := want.MatchString(name) && (name != "." || pattern == "*")
			if p.Match(name) != yes || m.Match(name) != yes {
				t.Fatalf("%q on %q: alone %v, among many %v, expression %v", pattern, name, p.Match(name), m.Match(name), yes)
			}
			if yes {
				matched++
			}
		}
	}
	if matched < 1000 {
		t.Fatalf("only %d matches: the test shows nothing", matched)
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("**.a*.b", "x.ab.b")
	f.Add("*a*b*", "abab")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := ParsePattern(pattern)
		if want := patternOfCRD.MatchString(pattern) && len(pattern) <= 255; want != (err == nil) {
			t.Fatalf("%q: %v, the CRD says %v", pattern, err, want)
		}
		name, bad := Canonical(name)
		if err != nil || bad != nil {
			return
		}
		if want := expression(pattern).MatchString(name) && (name != "." || pattern == "*"); p.Match(name) != want {
			t.Fatalf("%q on %q: %v, expression %v", pattern, name, !want, want)
		}
	})
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	m := many(t)
	if n := testing.AllocsPerRun(100, func() { m.Match("a.b.c.d0999.example.com.") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func many(t testing.TB) *Matcher {
	t.Helper()
	m := &Matcher{}
	for _, s := range []string{"www.example.com", "*.example.org", "**.example.net", "api-*.example.com"} {
		p, err := ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		m.Add(p)
	}
	return m
}

func BenchmarkMatchAmongMany(b *testing.B) {
	m := many(b)
	for b.Loop() {
		m.Match("a.b.c.example.net.")
	}
}

func BenchmarkUnpack(b *testing.B) {
	wire, _ := AppendWire(nil, "www.some-service.namespace.svc.cluster.local")
	var buf [MaxText]byte
	for b.Loop() {
		Unpack(buf[:0], wire, 0, false)
	}
}
