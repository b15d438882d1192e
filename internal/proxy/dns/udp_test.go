// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/l7"
)

var both = []string{"udp", "tcp"}

func TestWhatARuleAllowsIsAnswered(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*.example.com"}`)
	for _, network := range both {
		q := question("wWw.Example.com", miekg.TypeA)
		m := r.ask(network, q)
		if m.Rcode != miekg.RcodeSuccess || len(m.Answer) != 1 || m.Question[0].Name != "wWw.Example.com." {
			t.Errorf("over %s: %v", network, m)
		}
	}
	if got, want := r.lessons.all(), []string{"5 www.example.com. [192.0.2.1] 30", "5 www.example.com. [192.0.2.1] 30"}; !slices.Equal(got, want) {
		t.Errorf("learned %q, want %q", got, want)
	}
	await(t, "four records", func() bool { return len(r.records.all()) == 4 })
	for i, rec := range r.records.all() {
		d := rec.DNS
		if rec.Verdict != l7.Forwarded || d.Name != "www.example.com." || d.Type != 1 || d.Answer != (i%2 == 1) || rec.Limit.Set != number {
			t.Errorf("record %d: %+v %+v", i, rec, d)
		}
		if d.Answer && (rec.Latency <= 0 || d.TTL != 30 || !slices.Equal(d.IPs, []string{"192.0.2.1"})) {
			t.Errorf("record %d: %+v %+v", i, rec, d)
		}
	}
}

func TestWhatNoRuleAllowsIsRefused(t *testing.T) {
	asked := make(chan string, 10)
	server := serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) { asked <- q.Question[0].Name; answers(w, q) })
	for code, option := range map[int]option{miekg.RcodeRefused: func(*rig) {}, miekg.RcodeNameError: func(r *rig) { r.NameError = true }} {
		r := through(t, server, `{"matchName":"example.com"}`, option)
		for _, network := range both {
			q := question("www.Example.com", miekg.TypeAAAA)
			q.CheckingDisabled = true
			q.SetEdns0(4000, true)
			m := r.ask(network, q)
			if m.Rcode != code || !m.Response || !m.RecursionDesired || !m.RecursionAvailable || !m.CheckingDisabled || m.Authoritative || m.Truncated {
				t.Errorf("over %s: %v", network, m)
			}
			if len(m.Question) != 1 || m.Question[0] != q.Question[0] || m.IsEdns0() == nil || !m.IsEdns0().Do() || len(m.Answer) != 0 || len(m.Extra) != 1 {
				t.Errorf("over %s: %v", network, m)
			}
			if m := r.ask(network, question("example.org", miekg.TypeA)); m.Rcode != code || len(m.Extra) != 0 {
				t.Errorf("over %s, without EDNS: %v", network, m)
			}
		}
		rec := r.records.all()[0]
		if rec.Verdict != l7.Denied || rec.Reason != "no rule allows it" || rec.DNS.Name != "www.example.com." || rec.DNS.Type != miekg.TypeAAAA || rec.DNS.Answer {
			t.Errorf("record %+v %+v", rec, rec.DNS)
		}
		if n := r.sockets.sockets(); n != 0 {
			t.Errorf("%d sockets for questions that are refused", n)
		}
		r.end()
	}
	if len(asked) != 0 {
		t.Errorf("the server was asked for %s", <-asked)
	}
}

func TestRulesThatAreNotKnownOrNotAboutDNSAllowNothing(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`)
	other, err := l7.Compile(8, []string{`{"rules":{"http":[{}]}}`}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, limits := range [][]l7.Limit{
		{{Set: 99}},
		{{Set: number}, {Side: l7.Ingress, Set: 99}},
		{{Set: number}, {Side: l7.Ingress, Set: 8}},
	} {
		r.rules.Store(uint32(8), other)
		r.judge.change(func(j *judge) { j.ruling.Limits = limits })
		for _, network := range both {
			if m := r.ask(network, question("a.b", miekg.TypeA)); m.Rcode != miekg.RcodeRefused {
				t.Errorf("%v over %s: %v", limits, network, m)
			}
		}
	}
	if got := r.lessons.all(); len(got) != 0 {
		t.Errorf("learned %q", got)
	}
}

func TestOnlyTheClientsOwnEgressLearns(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`, func(r *rig) { r.judge.ruling.Limits[0].Side = l7.Ingress })
	for _, network := range both {
		if m := r.ask(network, question("a.b", miekg.TypeA)); len(m.Answer) != 1 {
			t.Errorf("over %s: %v", network, m)
		}
	}
	if got := r.lessons.all(); len(got) != 0 {
		t.Errorf("learned %q", got)
	}
}

func TestTheServerSeesTheClientsPortAndID(t *testing.T) {
	type seen struct {
		port int
		id   uint16
	}
	got := make(chan seen, 1)
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		got <- seen{w.RemoteAddr().(*net.UDPAddr).Port, q.Id}
		answers(w, q)
	}), `{"matchPattern":"*"}`)
	c := r.port()
	q := question("a.b", miekg.TypeA)
	r.write(c, q)
	if m := r.read(c); m.Id != q.Id {
		t.Errorf("answer %v", m)
	}
	if s := <-got; s.id != q.Id || s.port != c.LocalAddr().(*net.UDPAddr).Port {
		t.Errorf("the server saw %+v, the client has %s and ID %d", s, c.LocalAddr(), q.Id)
	}
}

func TestManyQuestionsOfOnePortAreTakenApart(t *testing.T) {
	// The server collects ten, and answers in reverse order.
	var mu sync.Mutex
	var held []func()
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, func() { answers(w, q) })
		if len(held) == 10 {
			for _, h := range slices.Backward(held) {
				h()
			}
		}
	}), `{"matchPattern":"*"}`)
	c := r.port()
	want := map[string]bool{}
	for i := range 10 {
		q := question(fmt.Sprintf("n%d.x", i), miekg.TypeA)
		q.Id = 4711 // all with the same
		want[q.Question[0].Name] = true
		r.write(c, q)
	}
	for range 10 {
		m := r.read(c)
		if m.Id != 4711 || !want[m.Question[0].Name] || len(m.Answer) != 1 || m.Answer[0].Header().Name != m.Question[0].Name {
			t.Fatalf("answer %v", m)
		}
		delete(want, m.Question[0].Name)
	}
	if n := r.sockets.sockets(); n != 1 {
		t.Errorf("%d sockets for one port", n)
	}
}

func TestAQuestionAskedAgainIsSentAgainAndEachAnswerComes(t *testing.T) {
	var mu sync.Mutex
	var held []func()
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, func() { answers(w, q) })
		if len(held) == 2 {
			held[0]()
			held[1]()
			held[1]() // nobody asked for this one
		}
	}), `{"matchPattern":"*"}`)
	c := r.port()
	q := question("a.b", miekg.TypeA)
	r.write(c, q)
	r.write(c, q)
	r.read(c)
	r.read(c)
	await(t, "the third answer is dropped", func() bool { return r.Counters.NotAsked.Load() == 1 })
	if n := r.Counters.Answered.Load(); n != 2 {
		t.Errorf("%d answers", n)
	}
}

func TestAnswersThatNobodyAskedForAreDropped(t *testing.T) {
	mutations := map[string]func(*miekg.Msg){
		"another ID":       func(m *miekg.Msg) { m.Id++ },
		"another name":     func(m *miekg.Msg) { m.Question[0].Name = "evil.b." },
		"another type":     func(m *miekg.Msg) { m.Question[0].Qtype = miekg.TypeTXT },
		"another class":    func(m *miekg.Msg) { m.Question[0].Qclass = miekg.ClassCHAOS },
		"no question":      func(m *miekg.Msg) { m.Question = nil },
		"two questions":    func(m *miekg.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"not an answer":    func(m *miekg.Msg) { m.Response = false },
		"another opcode":   func(m *miekg.Msg) { m.Opcode = miekg.OpcodeNotify },
		"an empty message": nil,
	}
	server := serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		for name, change := range mutations {
			m := new(miekg.Msg).SetReply(q)
			m.Answer = rrs(q.Question[0].Name + " 30 IN A 203.0.113.66")
			if change == nil {
				_, _ = w.Write([]byte{1, 2, 3})
				continue
			}
			change(m)
			if err := w.WriteMsg(m); err != nil {
				panic(name)
			}
		}
		loop := []byte{byte(q.Id >> 8), byte(q.Id), 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 'a', 1, 'b', 0, 0, 1, 0, 1, 0xc0, 21, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4}
		_, _ = w.Write(loop)
		_, _ = w.Write(loop[:30]) // cut off
		answers(w, q)
	})
	r := through(t, server, `{"matchPattern":"*"}`)
	for _, network := range both {
		m := r.ask(network, question("a.b", miekg.TypeA))
		if len(m.Answer) != 1 || m.Answer[0].(*miekg.A).A.String() != "192.0.2.1" {
			t.Errorf("over %s: %v", network, m)
		}
	}
	if got, want := r.lessons.all(), "5 a.b. [192.0.2.1] 30"; len(got) != 2 || got[0] != want || got[1] != want {
		t.Errorf("learned %q", got)
	}
	if n := r.Counters.NotAsked.Load() + r.Counters.BadAnswer.Load(); n != 2*11 {
		t.Errorf("%d dropped (%d not asked for), want 22", n, r.Counters.NotAsked.Load())
	}
}

func TestForgedSourcesReachNobody(t *testing.T) {
	hold := make(chan struct{})
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) { <-hold; answers(w, q) }), `{"matchPattern":"*"}`)
	c := r.port()
	q := question("a.b", miekg.TypeA)
	r.write(c, q)
	await(t, "the question is sent", func() bool { return r.Counters.Forwarded.Load() == 1 })
	forged := new(miekg.Msg).SetReply(q)
	forged.Answer = rrs("a.b. 30 IN A 203.0.113.66")
	b, _ := forged.Pack()
	liar, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(elsewhere), c.LocalAddr().(*net.UDPAddr).AddrPort().Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	if _, err := liar.Write(b); err != nil {
		t.Fatal(err)
	}
	close(hold)
	if m := r.read(c); m.Answer[0].(*miekg.A).A.String() != "192.0.2.1" {
		t.Errorf("a forged answer came through: %v", m)
	}
}

func TestQueriesThatAreNotOneQuestionAreRefused(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`)
	two := question("a.b", miekg.TypeA)
	two.Question = append(two.Question, two.Question[0])
	none := question("a.b", miekg.TypeA)
	none.Question = nil
	notify := question("a.b", miekg.TypeSOA)
	notify.Opcode = miekg.OpcodeNotify
	answer := question("a.b", miekg.TypeA)
	answer.Answer = rrs("a.b. 30 IN A 192.0.2.1")
	opts := question("a.b", miekg.TypeA)
	opts.SetEdns0(1232, false)
	opts.SetEdns0(1232, false)
	for name, c := range map[string]struct {
		q    *miekg.Msg
		code int
	}{
		"two questions": {two, miekg.RcodeFormatError},
		"no question":   {none, miekg.RcodeFormatError},
		"notify":        {notify, miekg.RcodeNotImplemented},
		"with answers":  {answer, miekg.RcodeFormatError},
		"two OPTs":      {opts, miekg.RcodeFormatError},
	} {
		p := r.port()
		r.write(p, c.q)
		if m := r.read(p); m.Rcode != c.code || !m.Response || m.Id != c.q.Id || m.Opcode != c.q.Opcode {
			t.Errorf("%s: %v", name, m)
		}
	}
	valid, _ := question("a.b", miekg.TypeA).Pack()
	for name, b := range map[string][]byte{
		"bytes at the end": append(slices.Clone(valid), 0),
		"cut off":          valid[:len(valid)-1],
		"a pointer":        append(append(slices.Clone(valid[:12]), 0xc0, 12), 0, 1, 0, 1),
	} {
		p := r.port()
		if _, err := p.Write(b); err != nil {
			t.Fatal(err)
		}
		if m := r.read(p); m.Rcode != miekg.RcodeFormatError {
			t.Errorf("%s: %v", name, m)
		}
	}
	if n := r.Counters.Malformed.Load(); n != 8 || r.sockets.sockets() != 0 {
		t.Errorf("%d counted, %d sockets", n, r.sockets.sockets())
	}
	for _, rec := range r.records.all() {
		if rec.Verdict != l7.Rejected || rec.Reason == "" {
			t.Errorf("record %+v %+v", rec, rec.DNS)
		}
	}
}

func TestADatagramThatIsNoQueryGetsNoAnswer(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`)
	p := r.port()
	reply := question("a.b", miekg.TypeA)
	reply.Response = true
	r.write(p, reply)
	for _, b := range []string{"", "x", "GET / HTTP/1.1"[:11], strings.Repeat("x", 9000)} {
		if _, err := p.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all are counted", func() bool { return r.Counters.Malformed.Load() == 5 })
	r.write(p, question("a.b", miekg.TypeA)) // and the next one is served
	if m := r.read(p); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

func TestAServerThatDoesNotListenMeansServerFailure(t *testing.T) {
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.LocalAddr().(*net.UDPAddr).AddrPort()
	free.Close()
	r := through(t, nobody, `{"matchPattern":"*"}`)
	for _, network := range both {
		q := question("A.b", miekg.TypeA)
		q.SetEdns0(1232, false)
		if m := r.ask(network, q); m.Rcode != miekg.RcodeServerFailure || m.Question[0] != q.Question[0] || m.IsEdns0() == nil {
			t.Errorf("over %s: %v", network, m)
		}
	}
	r.sockets.mu.Lock()
	r.sockets.refuse = errors.New("no route")
	r.sockets.mu.Unlock()
	for _, network := range both {
		if m := r.ask(network, question("a.b", miekg.TypeA)); m.Rcode != miekg.RcodeServerFailure {
			t.Errorf("without a socket, over %s: %v", network, m)
		}
	}
	if n := r.Counters.Unreachable.Load(); n != 4 {
		t.Errorf("%d counted", n)
	}
}

func TestAnAnswerWaitsToBeLearnedButNotForLong(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`, func(r *rig) { r.Limits.Learn = 50 * time.Millisecond })
	release := make(chan struct{})
	r.lessons.slow(func(context.Context) error { <-release; return nil })
	for _, network := range both { // the learner does not even look at its context
		before := time.Now()
		if m := r.ask(network, question("slow.b", miekg.TypeA)); len(m.Answer) != 1 || time.Since(before) < 50*time.Millisecond {
			t.Errorf("over %s after %v: %v", network, time.Since(before), m)
		}
	}
	if n := r.Counters.LearnLate.Load(); n != 2 {
		t.Errorf("%d late", n)
	}
	close(release)
	r.lessons.slow(func(context.Context) error { return errors.New("no") })
	for _, network := range both {
		if m := r.ask(network, question("failing.b", miekg.TypeA)); len(m.Answer) != 1 {
			t.Errorf("over %s: %v", network, m)
		}
	}
	await(t, "failures are counted", func() bool { return r.Counters.LearnFailed.Load() == 2 })
}

func TestNoAnswerIsSeenBeforeItIsLearned(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`, func(r *rig) { r.Limits.Learn = 20 * time.Second })
	for i := range 200 {
		name := fmt.Sprintf("n%d.b.", i)
		network := both[i%2]
		r.ask(network, question(name, miekg.TypeA))
		if got := r.lessons.all(); len(got) != i+1 || !strings.Contains(got[i], " "+name+" ") {
			t.Fatalf("answer %d came over %s, and learned was %q", i, network, got[max(len(got)-1, 0):])
		}
	}
}

func TestPolicyThatChangesHoldsForTheNextQuestion(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`)
	p := r.port()
	r.write(p, question("a.b", miekg.TypeA))
	if m := r.read(p); m.Rcode != 0 {
		t.Fatal(m)
	}
	narrow, err := l7.Compile(8, []string{line(`{"matchName":"c.d"}`)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.rules.Store(uint32(8), narrow)
	r.judge.change(func(j *judge) { j.ruling.Limits = []l7.Limit{{Set: 8}} })
	r.write(p, question("a.b", miekg.TypeA))
	if m := r.read(p); m.Rcode != miekg.RcodeRefused {
		t.Fatal(m)
	}
	r.judge.change(func(j *judge) { j.ruling = l7.Ruling{Generations: j.ruling.Generations} })
	r.write(p, question("a.b", miekg.TypeA)) // nothing limits it: passed unread
	if m := r.read(p); m.Rcode != 0 || r.Counters.Passed.Load() != 2 {
		t.Fatal(m)
	}
	r.judge.change(func(j *judge) { j.err = errors.New("nobody knows it") })
	r.write(p, question("a.b", miekg.TypeA))
	await(t, "a connection that nobody knows is dropped", func() bool { return r.Counters.Unknown.Load() == 1 })
	r.judge.change(func(j *judge) { j.err, j.ruling.Denied = nil, true })
	r.write(p, question("a.b", miekg.TypeA))
	await(t, "a connection that is denied is dropped", func() bool { return r.Counters.Unknown.Load() == 2 })
}

func TestOneClientDoesNotTakeThePlacesOfOthers(t *testing.T) {
	hold := make(chan struct{})
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "slow") {
			<-hold
		}
		answers(w, q)
	}), `{"matchPattern":"*"}`, func(r *rig) { r.Limits.Questions, r.Limits.Client = 32, 16 })
	defer close(hold)
	p := r.port()
	for i := range 20 {
		r.write(p, question(fmt.Sprintf("slow%d.b", i), miekg.TypeA))
	}
	for range 4 {
		if m := r.read(p); m.Rcode != miekg.RcodeServerFailure {
			t.Fatal(m)
		}
	}
	if n := r.Counters.Overload.Load(); n != 4 {
		t.Errorf("%d over the limit", n)
	}
	other, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(r.addr)))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	r.write(other, question("quick.b", miekg.TypeA))
	if m := r.read(other); m.Rcode != 0 || len(m.Answer) != 1 {
		t.Errorf("another client: %v", m)
	}
}

func TestQuestionsWithoutAnAnswerAreForgotten(t *testing.T) {
	r := through(t, serverOf(t, func(miekg.ResponseWriter, *miekg.Msg) {}), `{"matchPattern":"*"}`, func(r *rig) {
		r.Limits.Answer, r.Limits.Linger = 50*time.Millisecond, 50*time.Millisecond
	})
	p := r.port()
	for i := range 5 {
		r.write(p, question(fmt.Sprintf("n%d.b", i), miekg.TypeA))
	}
	await(t, "all are given up", func() bool { return r.Counters.Unanswered.Load() == 5 })
	r.places.mu.Lock()
	defer r.places.mu.Unlock()
	if r.places.taken != 0 || len(r.places.clients) != 0 {
		t.Errorf("%d places are taken, of %d clients", r.places.taken, len(r.places.clients))
	}
}

func TestSocketsOfQuietPortsAreClosed(t *testing.T) {
	r := through(t, serverOf(t, answers), `{"matchPattern":"*"}`, func(r *rig) { r.Limits.Linger = 10 * time.Millisecond })
	before := descriptors(t)
	for range 50 {
		r.ask("udp", question("a.b", miekg.TypeA))
	}
	await(t, "their descriptors are gone", func() bool { return descriptors(t) <= before+3 })
}

func descriptors(t *testing.T) (n int) {
	t.Helper()
	for fd := range 4096 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

func TestADrainAnswersWhatWasAsked(t *testing.T) {
	hold := make(chan struct{})
	r := through(t, serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) { <-hold; answers(w, q) }), `{"matchPattern":"*"}`)
	p := r.port()
	r.write(p, question("a.b", miekg.TypeA))
	await(t, "the question is sent", func() bool { return r.Counters.Forwarded.Load() == 1 })
	ended := make(chan struct{})
	go func() { r.end(); close(ended) }()
	close(hold)
	if m := r.read(p); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
	<-ended
}

func TestLargeAnswersPassWhole(t *testing.T) {
	server := serverOf(t, func(w miekg.ResponseWriter, q *miekg.Msg) {
		m := new(miekg.Msg).SetReply(q)
		for i := range 1000 {
			m.Answer = append(m.Answer, rrs(fmt.Sprintf("%s %d IN A 10.0.%d.%d", q.Question[0].Name, 300+i, i/250, i%250))...)
		}
		m.Compress = true
		if w.LocalAddr().Network() == "udp" && q.IsEdns0() == nil {
			m.Truncate(512)
		}
		_ = w.WriteMsg(m)
	})
	r := through(t, server, `{"matchPattern":"*"}`)
	q := question("many.example.com", miekg.TypeA)
	m := r.ask("udp", q)
	if !m.Truncated || len(m.Answer) == 0 {
		t.Fatalf("truncated: %v", m.MsgHdr)
	}
	if m := r.ask("tcp", q); m.Truncated || len(m.Answer) != 1000 {
		t.Fatalf("%d answers over TCP", len(m.Answer))
	}
	q.SetEdns0(65000, false)
	if m := r.ask("udp", q); len(m.Answer) != 1000 {
		t.Fatalf("%d answers over UDP", len(m.Answer))
	}
	got := r.lessons.all()
	if len(got) != 3 || strings.Count(got[1], "10.0.") != 1000 || !strings.HasSuffix(got[2], " 300") {
		t.Errorf("%d lessons", len(got))
	}
}

func TestIPv6ClientsAreServed(t *testing.T) {
	r := through(t, serverAt(t, "::1", answers), `{"matchPattern":"*"}`)
	for _, network := range both {
		if m := r.ask(network, question("a.b", miekg.TypeAAAA)); len(m.Answer) != 1 {
			t.Errorf("over %s: %v", network, m)
		}
	}
	if got, want := r.lessons.all(), []string{"5 a.b. [2001:db8::1] 30", "5 a.b. [2001:db8::1] 30"}; !slices.Equal(got, want) {
		t.Errorf("learned %q", got)
	}
}
