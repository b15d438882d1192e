// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/internal/cli/command"
)

var verdicts = []string{"allow", "deny", "redirect", "audit"}

// protocols of events by what people write in any case.
var protocols = map[string][]string{
	"TCP": {"TCP"}, "UDP": {"UDP"}, "SCTP": {"SCTP"},
	"ICMP": {"ICMPv4", "ICMPv6"}, "ICMPV4": {"ICMPv4"}, "ICMPV6": {"ICMPv6"},
}

// validate refuses what no event can match: whoever follows it would wait for
// ever. It writes types and protocols as agents name them.
func (o *Options) validate() error {
	for i, t := range o.Types {
		if types[t] == "" {
			return command.Usagef("--type %s: must be one of drop, verdict, trace", t)
		}
		o.Types[i] = types[t]
	}
	var names []string
	for _, p := range o.Protocols {
		known := protocols[strings.ToUpper(p)]
		if known == nil {
			return command.Usagef("--protocol %s: must be one of TCP, UDP, SCTP, ICMP, ICMPv4, ICMPv6", p)
		}
		names = append(names, known...)
	}
	o.Protocols = names
	for _, v := range o.Verdicts {
		if !slices.Contains(verdicts, v) {
			return command.Usagef("--verdict %s: must be one of %s", v, strings.Join(verdicts, ", "))
		}
	}
	for _, p := range o.Ports {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return command.Usagef("--port %s: must be a number from 1 to 65535", p)
		}
	}
	for _, f := range []struct {
		name   string
		values []string
	}{{"from", o.From}, {"to", o.To}, {"related-to", o.Related}} {
		for _, v := range f.values {
			if !isParty(v) {
				return command.Usagef("--%s %s: must be an endpoint's number, namespace/pod, an address, a prefix or identity:NUMBER", f.name, v)
			}
		}
	}
	if o.Count < 0 {
		return command.Usagef("--count must not be negative")
	}
	return nil
}

// isParty tells whether a value can name an end of a packet.
func isParty(v string) bool {
	if id, ok := strings.CutPrefix(v, "identity:"); ok {
		_, err := strconv.ParseUint(id, 10, 32)
		return err == nil
	}
	if _, err := strconv.ParseUint(v, 10, 16); err == nil {
		return true
	}
	if _, err := netip.ParseAddr(v); err == nil {
		return true
	}
	if _, err := netip.ParsePrefix(v); err == nil {
		return true
	}
	namespace, name, ok := strings.Cut(v, "/")
	return ok && namespace != "" && name != "" && !strings.ContainsAny(name, "/:") && !strings.Contains(namespace, ":")
}
