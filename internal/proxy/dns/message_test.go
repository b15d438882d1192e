// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/stentor-net/stentor/internal/dnsname"
)

// reading is what an answer says about a question of a type.
func reading(t *testing.T, kind uint16, lines ...string) *answer {
	t.Helper()
	m := new(miekg.Msg).SetReply(question("Asked.x", kind))
	m.Answer, m.Compress = rrs(lines...), true
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	in := &answer{}
	off, f := in.readHead(b)
	if f == sound {
		f = in.readRest(b, off)
	}
	if f != sound {
		t.Fatalf("%v: %s", lines, f.reason())
	}
	return in
}

func TestAddressesOfANameAreThoseAtTheEndOfItsAliases(t *testing.T) {
	for name, c := range map[string]struct {
		kind    uint16
		lines   []string
		addrs   string
		ttl     uint32
		aliases string
	}{
		"plain":                {1, []string{"asked.x. 30 IN A 10.0.0.1", "asked.x. 20 IN A 10.0.0.2", "asked.x. 40 IN A 10.0.0.2"}, "10.0.0.1 10.0.0.2 10.0.0.2", 20, ""},
		"alias":                {1, []string{"asked.x. 5 IN CNAME B.y.", "b.y. 30 IN A 10.0.0.1"}, "10.0.0.1", 5, "b.y."},
		"chain, out of order":  {28, []string{"c.y. 60 IN AAAA fd00::1", "b.y. 7 IN CNAME c.y.", "asked.x. 50 IN CNAME b.y."}, "fd00::1", 7, "c.y. b.y."},
		"another name":         {1, []string{"other.x. 30 IN A 10.0.0.1"}, "", 0, ""},
		"not of the chain":     {1, []string{"asked.x. 30 IN CNAME b.y.", "c.y. 30 IN A 10.0.0.1"}, "", 30, "b.y."},
		"a chain in a circle":  {1, []string{"asked.x. 30 IN CNAME b.y.", "b.y. 30 IN CNAME asked.x.", "b.y. 9 IN A 10.0.0.1"}, "10.0.0.1", 9, "b.y. asked.x."},
		"the other family":     {1, []string{"asked.x. 30 IN AAAA fd00::1"}, "", 0, ""},
		"any":                  {255, []string{"asked.x. 30 IN AAAA fd00::1", "asked.x. 30 IN A 10.0.0.1", `asked.x. 1 IN TXT "x"`}, "fd00::1 10.0.0.1", 30, ""},
		"another class":        {1, []string{"asked.x. 30 CH A 10.0.0.1"}, "", 0, ""},
		"service":              {33, []string{"asked.x. 30 IN SRV 1 1 80 b.y."}, "", 0, ""},
		"hints":                {65, []string{"asked.x. 30 IN HTTPS 1 . ipv4hint=10.0.0.1"}, "", 0, ""},
		"a generated alias":    {1, []string{"x. 30 IN DNAME y.", "asked.x. 30 IN CNAME asked.y.", "asked.y. 30 IN A 10.0.0.1"}, "10.0.0.1", 30, "asked.y."},
		"time beyond 31 bits":  {1, []string{"asked.x. 4294967295 IN A 10.0.0.1"}, "10.0.0.1", 0, ""},
		"mapped as an address": {28, []string{"asked.x. 30 IN AAAA ::ffff:10.0.0.1"}, "::ffff:10.0.0.1", 30, ""},
	} {
		in := reading(t, c.kind, c.lines...)
		var addrs, aliases []string
		for _, a := range in.addrs {
			addrs = append(addrs, a.String())
		}
		for _, a := range in.aliases {
			aliases = append(aliases, string(a))
		}
		if got := strings.Join(addrs, " "); got != c.addrs || in.ttl != c.ttl || strings.Join(aliases, " ") != c.aliases {
			t.Errorf("%s: %q for %d s through %q, want %q %d %q", name, got, in.ttl, aliases, c.addrs, c.ttl, c.aliases)
		}
	}
}

func TestAnAnswerOfThousandsOfRecordsIsReadInBoundedTime(t *testing.T) {
	var lines []string
	for i := range 1200 {
		lines = append(lines, fmt.Sprintf("n%d.y. 30 IN CNAME n%d.y.", i, i+1))
	}
	lines = append(lines, "asked.x. 30 IN CNAME n0.y.", "n1200.y. 30 IN A 10.0.0.1")
	if in := reading(t, 1, lines...); len(in.addrs) != 0 || len(in.aliases) > maxAliases {
		t.Errorf("%d aliases, addresses %v", len(in.aliases), in.addrs)
	}
}

func TestWhatATruncatedAnswerHoldsCounts(t *testing.T) {
	m := new(miekg.Msg).SetReply(question("asked.x", 1))
	m.Answer, m.Compress, m.Truncated = rrs("asked.x. 30 IN A 10.0.0.1", "asked.x. 30 IN A 10.0.0.2"), true, true
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	b = b[:len(b)-3] // in the middle of a record, as some servers do
	var in answer
	off, f := in.readHead(b)
	if f != sound || in.readRest(b, off) != sound || len(in.addrs) != 1 {
		t.Errorf("%v %v", f, in.addrs)
	}
	b[2] &^= 2
	if off, _ = in.readHead(b); in.readRest(b, off) != malformed {
		t.Error("the same without the mark of truncation is taken")
	}
}

func TestExtendedCodesAreRecorded(t *testing.T) {
	m := new(miekg.Msg).SetRcode(question("asked.x", 1), miekg.RcodeBadVers)
	m.SetEdns0(1232, false)
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var in answer
	off, f := in.readHead(b)
	if f != sound || in.readRest(b, off) != sound || in.code != miekg.RcodeBadVers {
		t.Errorf("code %d", in.code)
	}
}

// sameQuery compares our reading of a query with miekg's. What it takes may be
// more: we want one question and nothing else than additional records.
func sameQuery(t *testing.T, b []byte) {
	t.Helper()
	var q query
	f := q.read(b)
	m := new(miekg.Msg)
	err := m.Unpack(b)
	if f != sound {
		if err == nil && f == malformed && plain(m) && !packedQuestion(b) && !oddRest(b, m) {
			t.Fatalf("a good query is refused (%s): %v\n%x", f.reason(), m, b)
		}
		return
	}
	if err != nil {
		return // data of additional records, which nobody here reads
	}
	if len(m.Question) != 1 || m.Id != q.id || m.Response || m.Opcode != 0 {
		t.Fatalf("%v\n%x", m, b)
	}
	want := m.Question[0]
	name, err := dnsname.Canonical(want.Name)
	if err != nil || string(q.name) != name || q.kind != want.Qtype || q.class != want.Qclass {
		t.Fatalf("%q %d %d, miekg has %q %d %d (%v)\n%x", q.name, q.kind, q.class, want.Name, want.Qtype, want.Qclass, err, b)
	}
	r := appendReply(nil, &q, codeRefused)
	reply := new(miekg.Msg)
	if err := reply.Unpack(r); err != nil || reply.Id != m.Id || reply.Rcode != miekg.RcodeRefused || !reply.Response || len(reply.Question) != 1 || reply.Question[0] != want {
		t.Fatalf("reply %v, %v\n%x", reply, err, r)
	}
	if (reply.IsEdns0() != nil) != q.edns {
		t.Fatalf("EDNS: %v\n%x", reply, b)
	}
}

// plain: a query that we must take.
func plain(m *miekg.Msg) bool {
	return len(m.Question) == 1 && len(m.Answer) == 0 && len(m.Ns) == 0 && len(m.Extra) == 0
}

// packedQuestion: its name is compressed, or miekg gave up on the rest.
func packedQuestion(b []byte) bool {
	_, next, err := dnsname.Unpack(nil, b, headerSize, false)
	return err != nil || next+4 > len(b)
}

// oddRest: the counts speak of records that are not there, or bytes follow.
func oddRest(b []byte, m *miekg.Msg) bool {
	for _, n := range b[6:12] {
		if n != 0 {
			return true
		}
	}
	_, next, _ := dnsname.Unpack(nil, b, headerSize, false)
	return next+4 != len(b)
}

// sameAnswer compares our reading of an answer with miekg's.
func sameAnswer(t *testing.T, b []byte) {
	t.Helper()
	var in answer
	off, f := in.readHead(b)
	if f == sound {
		f = in.readRest(b, off)
	}
	m := new(miekg.Msg)
	if err := m.Unpack(b); err != nil || f != sound || in.name == nil || m.Truncated {
		return
	}
	want, ttl := plainly(m)
	slices.SortFunc(want, netip.Addr.Compare)
	got := slices.SortedFunc(slices.Values(in.addrs), netip.Addr.Compare)
	if cnames(m) <= maxAliases && (!slices.Equal(got, want) || len(got) > 0 && in.ttl != ttl) {
		t.Fatalf("%v for %d s, plainly read %v for %d s\n%v\n%x", got, in.ttl, want, ttl, m, b)
	}
}

func cnames(m *miekg.Msg) (n int) {
	for _, rr := range m.Answer {
		if rr.Header().Rrtype == miekg.TypeCNAME {
			n++
		}
	}
	return n
}

// plainly follows aliases with the texts of miekg.
func plainly(m *miekg.Msg) (addrs []netip.Addr, ttl uint32) {
	form := func(s string) string { c, _ := dnsname.Canonical(s); return c }
	q := m.Question[0]
	if q.Qclass != miekg.ClassINET {
		return nil, 0
	}
	at, seen := form(q.Name), map[string]bool{}
	ttl = 1<<32 - 1
	least := func(v uint32) { ttl = min(ttl, v&^(1<<31)*(1-v>>31)) }
	for !seen[at] {
		seen[at] = true
		next := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if form(h.Name) != at || h.Class != miekg.ClassINET {
				continue
			}
			switch rr := rr.(type) {
			case *miekg.A:
				if a, ok := netip.AddrFromSlice(rr.A.To4()); ok && (q.Qtype == miekg.TypeA || q.Qtype == miekg.TypeANY) {
					addrs = append(addrs, a)
					least(h.Ttl)
				}
			case *miekg.AAAA:
				if a, ok := netip.AddrFromSlice(rr.AAAA.To16()); ok && (q.Qtype == miekg.TypeAAAA || q.Qtype == miekg.TypeANY) {
					addrs = append(addrs, a)
					least(h.Ttl)
				}
			case *miekg.CNAME:
				if next == "" {
					next = form(rr.Target)
					least(h.Ttl)
				}
			}
		}
		if next != "" {
			at = next
		}
	}
	return addrs, ttl
}

// someAnswer is a random answer with names that are much alike.
func someAnswer(rnd *rand.Rand) []byte {
	names := []string{"asked.x.", "Asked.X.", "b.y.", "c.y.", `a\.b.y.`, ".", "x.", "é.y."}
	name := func() string { return names[rnd.IntN(len(names))] }
	m := new(miekg.Msg).SetReply(question(name(), []uint16{1, 28, 255, 5, 33}[rnd.IntN(5)]))
	m.Compress = rnd.IntN(2) == 0
	for range rnd.IntN(8) {
		h := fmt.Sprintf("%s %d IN ", name(), rnd.Uint32N(300))
		switch rnd.IntN(5) {
		case 0:
			m.Answer = append(m.Answer, rrs(h+"AAAA fd00::"+fmt.Sprint(rnd.IntN(9)))...)
		case 1:
			m.Answer = append(m.Answer, rrs(h+"CNAME "+name())...)
		case 2:
			m.Answer = append(m.Answer, rrs(h+"SRV 1 1 80 "+name())...)
		default:
			m.Answer = append(m.Answer, rrs(h+"A 10.0.0."+fmt.Sprint(rnd.IntN(9)))...)
		}
	}
	if rnd.IntN(2) == 0 {
		m.SetEdns0(1232, false)
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func TestAnswersMeanWhatTheyMeanToAnotherParser(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		b := someAnswer(rnd)
		sameAnswer(t, b)
		for range 2 { // and with a byte that is wrong
			bad := slices.Clone(b)
			bad[rnd.IntN(len(bad))] = byte(rnd.Uint32())
			sameAnswer(t, bad)
		}
	}
}

func TestQueriesMeanWhatTheyMeanToAnotherParser(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		q := question([]string{"asked.x", `a\.b\000.Y`, ".", "é.y"}[rnd.IntN(4)], uint16(rnd.IntN(300)))
		if rnd.IntN(2) == 0 {
			q.SetEdns0(4096, rnd.IntN(2) == 0)
		}
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		sameQuery(t, b)
		b[rnd.IntN(len(b))] = byte(rnd.Uint32())
		sameQuery(t, b)
		sameQuery(t, b[:rnd.IntN(len(b)+1)])
	}
}

func FuzzQuery(f *testing.F) {
	q := question("asked.x", 1)
	q.SetEdns0(1232, true)
	b, _ := q.Pack()
	f.Add(b)
	f.Add(b[:len(b)-11])
	f.Fuzz(sameQuery)
}

func FuzzAnswer(f *testing.F) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 20 {
		f.Add(someAnswer(rnd))
	}
	f.Fuzz(sameAnswer)
}
