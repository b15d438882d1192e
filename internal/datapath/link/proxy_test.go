// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/datapath/link"
)

func TestMarkedPacketsAreLocalWhileThereIsAProxy(t *testing.T) {
	n := newNode(t, func(o *link.Options) { o.Proxy = true })
	look := func() string {
		var all []string
		for _, cmd := range []string{"ip rule", "ip -6 rule", "ip route show table 2004", "ip -6 route show table 2004"} {
			out, _ := n.Output(cmd) // a table without routes is an error
			all = append(all, out)
		}
		return strings.Join(all, "")
	}
	holds(t, n.Namespace, "sysctl net.ipv4.conf.stentor_host.accept_local", "= 1")
	right := look()
	if strings.Count(right, "fwmark 0x57e10002 lookup 2004") != 2 || strings.Count(right, "local default dev lo") != 2 {
		t.Fatalf("rules and routes:\n%s", right)
	}
	for _, breaking := range []string{"ip rule del fwmark 0x57e10002", "ip -6 rule del fwmark 0x57e10002",
		"ip route flush table 2004", "ip -6 route flush table 2004"} {
		n.Run(t, breaking)
		if look() == right {
			t.Fatalf("%s changed nothing", breaking)
		}
		n.ensure(t)
		if now := look(); now != right {
			t.Errorf("after %s:\n%s\nwant\n%s", breaking, now, right)
		}
	}
	gone := func(when string) {
		if now := look(); strings.Contains(now, "2004") || strings.Contains(now, "local default") {
			t.Errorf("%s:\n%s", when, now)
		}
	}
	n.opt.Proxy = false
	n.ensure(t)
	gone("switched off")
	n.opt.Proxy = true
	n.ensure(t)
	var err error
	n.Do(func() { err = link.Cleanup() })
	if err != nil {
		t.Error(err)
	}
	gone("cleaned up")
}
