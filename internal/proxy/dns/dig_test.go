// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

// dnsmasq is a real DNS server, if the machine has one.
func dnsmasq(t *testing.T) netip.AddrPort {
	t.Helper()
	program, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("no dnsmasq here")
	}
	tcp, udp := listeners(t, "127.0.0.1")
	tcp.Close()
	udp.Close()
	addr := netip.MustParseAddrPort(tcp.Addr().String())
	args := []string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=", "--no-resolv", "--no-hosts", "--no-daemon",
		"--bind-interfaces", "--listen-address=127.0.0.1", fmt.Sprintf("--port=%d", addr.Port()), "--local-ttl=60",
		"--host-record=www.example.com,192.0.2.10,2001:db8::10", "--cname=alias.example.com,www.example.com",
		"--srv-host=_sip._tcp.example.com,www.example.com,5060", "--txt-record=example.com,hello", "--local=/example.com/",
	}
	for i := range 200 {
		args = append(args, fmt.Sprintf("--txt-record=big.example.com,%s%d", strings.Repeat("x", 100), i))
	}
	cmd := exec.Command(program, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	c := miekg.Client{Timeout: time.Second}
	await(t, "dnsmasq answers", func() bool {
		_, _, err := c.Exchange(question("www.example.com", miekg.TypeA), addr.String())
		return err == nil
	})
	return addr
}

func TestDigAndDnsmasqTalkThroughTheProxy(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("no dig here")
	}
	r := through(t, dnsmasq(t), `{"matchPattern":"**.example.com"}`)
	server := netip.MustParseAddrPort(r.addr)
	for _, c := range []struct{ args, wants string }{
		{"www.example.com A", "192.0.2.10"},
		{"wWw.eXample.com AAAA", "wWw.eXample.com.|2001:db8::10"},
		{"alias.example.com A", "CNAME|192.0.2.10|NOERROR"},
		{"alias.example.com A +tcp", "CNAME|192.0.2.10|NOERROR"},
		{"_sip._tcp.example.com SRV", "5060 www.example.com."},
		{"nothing.example.com A", "NXDOMAIN"},
		{"big.example.com TXT +bufsize=1232", "(TCP)|xxx199"},
		{"big.example.com TXT +noedns +ignore", "tc"},
		{"www.example.com A +nocookie +dnssec +nsid", "192.0.2.10"},
		{"example.com TXT", "REFUSED|ra|EDNS"},
		{"www.example.org A +tcp", "REFUSED"},
		{"www.example.org A +noedns", "REFUSED"},
		{"www.example.com A +opcode=notify", "NOTIMP"},
		{"www.example.com A +header-only", "FORMERR"},
		{"www.example.com A +tcp +keepopen www.example.com AAAA +tcp +keepopen", "192.0.2.10|2001:db8::10"},
	} {
		args := append([]string{"@127.0.0.1", "-p", fmt.Sprint(server.Port()), "+tries=1", "+timeout=10"}, strings.Fields(c.args)...)
		out, err := exec.Command(dig, args...).CombinedOutput()
		for want := range strings.SplitSeq(c.wants, "|") {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("dig %s: %q is missing (%v):\n%s", c.args, want, err, out)
			}
		}
		for _, bad := range []string{"WARNING", "Warning", "malformed", "mismatch"} {
			if strings.Contains(string(out), bad) && !strings.Contains(c.wants, "NOTIMP") && !strings.Contains(c.args, "header-only") {
				t.Errorf("dig %s complains:\n%s", c.args, out)
			}
		}
	}
	got := strings.Join(r.lessons.all(), "\n")
	for _, want := range []string{"5 www.example.com. [192.0.2.10] 60", "5 www.example.com. [2001:db8::10] 60", "5 alias.example.com. [192.0.2.10] 60"} {
		if !strings.Contains(got, want) {
			t.Errorf("not learned: %s\n%s", want, got)
		}
	}
}
