// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// maxPorts is how many ports, or ICMP types, one list may hold.
const maxPorts = 40

var portNamePattern = regexp.MustCompile(`^([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$`)

// protocols by name. Those after SCTP have no ports.
var protocols = map[ciliumv2.Protocol]uint8{
	"": 0, "ANY": 0, "TCP": protoTCP, "UDP": protoUDP, "SCTP": protoSCTP,
	"VRRP": 112, "IGMP": 2, "GRE": 47, "IPIP": 4, "IPV6": 41, "ESP": 50, "AH": 51,
}

// portRules adds a rule for each element of toPorts.
func (p *cnpParser) portRules(s *section, base rule) error {
	if len(s.ports) == 0 { // present but empty: restricts nothing
		r := base
		p.out.add(&r)
		return nil
	}
	for i := range s.ports {
		in := &s.ports[i]
		at := fmt.Sprintf("%s.toPorts[%d]", s.path, i)
		r := base
		r.origin.Path = at
		var err error
		if r.ports, err = ciliumPorts(at, in.Ports); err != nil {
			return err
		}
		p.spoken(at, in.Ports, &r)
		if err := p.proxied(at, in, &r); err != nil {
			return err
		}
		p.out.add(&r)
	}
	return nil
}

// spoken takes out of what a rule allows the protocols that the datapath drops,
// whatever policy says.
func (p *cnpParser) spoken(at string, list []ciliumv2.PortProtocol, r *rule) {
	known := func(protocol uint8) bool {
		return protocol == protoTCP || protocol == protoUDP || protocol == protoSCTP
	}
	for i := range list {
		number := protocols[ciliumv2.Protocol(strings.ToUpper(string(list[i].Protocol)))]
		if number == 0 || known(number) {
			continue
		}
		p.out.note("%s.ports[%d].protocol %s", at, i, list[i].Protocol)
		if r.verdict == Deny {
			continue
		}
		if r.ports = slices.DeleteFunc(r.ports, func(have portRange) bool { return have.protocol == number }); len(r.ports) == 0 {
			r.peers = nil
		}
	}
}

func ciliumPorts(at string, list []ciliumv2.PortProtocol) ([]portRange, error) {
	if len(list) > maxPorts {
		return nil, fmt.Errorf("%s.ports: %d are more than %d", at, len(list), maxPorts)
	}
	var out []portRange
	for i := range list {
		r, err := ciliumPort(&list[i])
		if err != nil {
			return nil, fmt.Errorf("%s.ports[%d]: %w", at, i, err)
		}
		if r.protocol != 0 {
			out = append(out, r)
			continue
		}
		for _, r.protocol = range []uint8{protoTCP, protoUDP, protoSCTP} {
			out = append(out, r)
		}
	}
	return out, nil
}

func ciliumPort(in *ciliumv2.PortProtocol) (portRange, error) {
	protocol, ok := protocols[ciliumv2.Protocol(strings.ToUpper(string(in.Protocol)))]
	if !ok {
		return portRange{}, fmt.Errorf("protocol %q is unknown", in.Protocol)
	}
	r := portRange{protocol: protocol}
	number, err := strconv.ParseUint(in.Port, 10, 16)
	switch {
	case in.Port == "" || err == nil && number == 0:
		if in.EndPort != 0 {
			return r, fmt.Errorf("endPort without port")
		}
		r.all = true
		return r, nil
	case protocol != 0 && protocol != protoTCP && protocol != protoUDP && protocol != protoSCTP:
		return r, fmt.Errorf("protocol %s has no ports", in.Protocol)
	case err == nil:
		end := &in.EndPort
		if in.EndPort == 0 {
			end = nil
		}
		return r, r.setNumbers(int64(number), end)
	case !portNamePattern.MatchString(in.Port) || len(in.Port) > 63:
		return r, fmt.Errorf("port %q is neither a number nor a name", in.Port)
	case in.EndPort != 0:
		return r, fmt.Errorf("endPort with a named port")
	}
	r.name = strings.ToLower(in.Port)
	return r, nil
}

// proxied makes a rule a redirect if the proxy has to look into the traffic.
func (p *cnpParser) proxied(at string, in *ciliumv2.PortRule, r *rule) error {
	if err := checkL7(in.Rules); err != nil {
		return fmt.Errorf("%s.rules: %w", at, err)
	}
	carry, l7 := &p.opts.Carry, in.Rules
	if l7 == nil {
		l7 = &ciliumv2.L7Rules{}
	}
	parts := []struct {
		name string
		have bool
		how  Treatment
		open bool // lets everything pass, and only wants it seen
	}{
		{"rules.http", l7.HTTP != nil, carry.HTTP, openHTTP(l7.HTTP)},
		{"rules.dns", l7.DNS != nil, carry.DNS, openDNS(l7.DNS)},
		{"rules.kafka", l7.Kafka != nil, carry.Kafka, len(l7.Kafka) == 0},
		{"rules.l7proto", l7.L7Proto != "", carry.L7Proto, len(l7.L7) == 0},
		{"serverNames", len(in.ServerNames) > 0, carry.TLS, false},
		{"listener", in.Listener != nil, carry.Listener, false},
		{"terminatingTLS", in.TerminatingTLS != nil, carry.TLS, true},
		{"originatingTLS", in.OriginatingTLS != nil, carry.TLS, true},
	}
	for _, part := range parts {
		switch {
		case !part.have || part.how == Ignored:
		case part.how == Redirected:
			text, err := json.Marshal(in)
			if err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			r.verdict, r.l7 = Redirect, &l7Rules{key: string(text)}
		default:
			p.out.note("%s.%s", at, part.name)
			if !part.open {
				r.peers = nil // what the proxy would have to judge is denied
			}
		}
	}
	return nil
}

func checkL7(r *ciliumv2.L7Rules) error {
	if r == nil {
		return nil
	}
	kinds := 0
	for _, have := range []bool{r.HTTP != nil, r.Kafka != nil, r.DNS != nil, r.L7Proto != ""} {
		if have {
			kinds++
		}
	}
	if kinds > 1 {
		return fmt.Errorf("http, kafka, dns and l7proto exclude each other")
	}
	for i, d := range r.DNS {
		if d.MatchName != "" && d.MatchPattern != "" {
			return fmt.Errorf("dns[%d]: matchName and matchPattern exclude each other", i)
		}
	}
	return nil
}

// openHTTP tells whether the rules let every request pass.
func openHTTP(rules []ciliumv2.HTTPRule) bool {
	return len(rules) == 0 || slices.ContainsFunc(rules, func(h ciliumv2.HTTPRule) bool {
		return h.Path == "" && h.Method == "" && h.Host == "" && len(h.Headers) == 0 && len(h.HeaderMatches) == 0
	})
}

// openDNS tells whether the rules let every name pass.
func openDNS(rules []ciliumv2.FQDNSelector) bool {
	return len(rules) == 0 || slices.ContainsFunc(rules, func(d ciliumv2.FQDNSelector) bool { return d.MatchPattern == "*" })
}

// icmpTypes by name, per family.
var icmpTypes = map[uint8]map[string]uint16{
	protoICMP: {
		"EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8, "RouterAdvertisement": 9, "RouterSelection": 10,
		"TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13, "TimestampReply": 14, "Photuris": 40,
		"ExtendedEchoRequest": 42, "ExtendedEchoReply": 43, "ExtendedEcho Reply": 43,
	},
	protoICMPv6: {
		"DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4, "EchoRequest": 128, "EchoReply": 129,
		"MulticastListenerQuery": 130, "MulticastListenerReport": 131, "MulticastListenerDone": 132, "RouterSolicitation": 133,
		"RouterAdvertisement": 134, "NeighborSolicitation": 135, "NeighborAdvertisement": 136, "RedirectMessage": 137, "RouterRenumbering": 138,
		"ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140, "InverseNeighborDiscoverySolicitation": 141,
		"InverseNeighborDiscoveryAdvertisement": 142, "HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145,
		"MobilePrefixSolicitation": 146, "MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157,
		"DuplicateAddressConfirmationCodeSuffix": 158, "ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
	},
}

func icmpPorts(at string, list []ciliumv2.ICMPRule) ([]portRange, error) {
	var out []portRange
	for i, in := range list {
		if len(in.Fields) > maxPorts {
			return nil, fmt.Errorf("%s.icmps[%d].fields: %d are more than %d", at, i, len(in.Fields), maxPorts)
		}
		for j, f := range in.Fields {
			r, err := icmpPort(f)
			if err != nil {
				return nil, fmt.Errorf("%s.icmps[%d].fields[%d]: %w", at, i, j, err)
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func icmpPort(f ciliumv2.ICMPField) (portRange, error) {
	r := portRange{protocol: protoICMP}
	switch f.Family {
	case "", "IPv4":
	case "IPv6":
		r.protocol = protoICMPv6
	default:
		return r, fmt.Errorf("family %q is unknown", f.Family)
	}
	if f.Type == nil {
		return r, fmt.Errorf("type is required")
	}
	number := int64(f.Type.IntVal)
	if f.Type.Type == intstr.String {
		if n, ok := icmpTypes[r.protocol][f.Type.StrVal]; ok {
			number = int64(n)
		} else {
			n, err := strconv.ParseUint(f.Type.StrVal, 10, 8)
			if err != nil {
				return r, fmt.Errorf("type %q is unknown", f.Type.StrVal)
			}
			number = int64(n)
		}
	}
	if number < 0 || number > 255 {
		return r, fmt.Errorf("type %d is out of range", number)
	}
	r.first, r.last = uint16(number), uint16(number)
	return r, nil
}
