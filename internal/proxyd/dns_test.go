// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/stentor-net/stentor/internal/l7"
)

var names = []l7.Source{{Number: 70001, Lines: []string{`{"ports":[{"port":"53"}],"rules":{"dns":[{"matchPattern":"*.example.com"}]}}`}}}

// dnsServer gives every name no address, over UDP and TCP.
func dnsServer(t *testing.T) string {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetReply(q)) })
	for _, s := range []*dns.Server{{Listener: tcp, Handler: answer}, {PacketConn: udp, Handler: answer}} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-done })
	}
	return tcp.Addr().String()
}

func TestNamesAreJudgedByTheRulesOfTheAgent(t *testing.T) {
	s := startAt(t, t.TempDir(), limited(70001), dnsServer(t))
	w := serveRules(t, s.opts.Socket, names)
	records := make(chan *l7.Record, 20)
	w.Record = func(r *l7.Record) { records <- r }
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: 10 * time.Second}
		for name, want := range map[string]int{"www.example.com.": dns.RcodeSuccess, "www.example.org.": dns.RcodeRefused} {
			m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), s.kernel.addr())
			if err != nil || m.Rcode != want {
				t.Errorf("%s over %s: %v, %v", name, network, m, err)
			}
		}
	}
	denied := 0
	for range 6 { // a question and an answer each, but for what is denied
		if r := <-records; r.Verdict == l7.Denied {
			denied++
		}
	}
	if denied != 2 {
		t.Errorf("%d records of what is denied", denied)
	}
}
