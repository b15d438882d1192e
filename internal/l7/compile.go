// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"encoding/json"
	"errors"
	"fmt"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/dnsname"
)

// Everything is the line of a rule that has no L7 part.
const Everything = "*"

// Secrets looks up the data of a Secret. An empty namespace is for it to fill
// in. The error says why there is none; it never holds a value.
type Secrets func(namespace, name string) (map[string][]byte, error)

// Compile makes the set of a number from its lines: Everything, or a PortRule
// as JSON. Lines are ORed. A part that cannot be compiled allows nothing, and
// the error, for the status, says which; the set is good all the same.
func Compile(number uint32, lines []string, secrets Secrets) (*Set, error) {
	s := &Set{Number: number}
	var errs []error
	everything, mixed := false, false
	for i, line := range lines {
		if line == Everything {
			everything = true
			continue
		}
		var rule ciliumv2.PortRule
		if err := json.Unmarshal([]byte(line), &rule); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i, err))
			continue
		}
		p := protocolOf(&rule)
		if s.Protocol != None && p != None && p != s.Protocol {
			mixed = true
			continue
		}
		s.Protocol = max(s.Protocol, p)
		if err := s.add(&rule, p, secrets); err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i, err))
		}
	}
	s.All = s.All || everything
	if mixed { // which parser would be right is not known, so neither is
		errs = append(errs, errors.New("rules of several protocols on one port: nothing is allowed"))
		s.All, s.http, s.rewrite, s.dns = false, nil, false, dnsname.Matcher{}
	}
	if s.Protocol == None && !s.All {
		s.Protocol = ProtocolOther // no line was understood
	}
	return s, errors.Join(errs...)
}

// protocolOf says what the proxy has to understand for a rule.
func protocolOf(r *ciliumv2.PortRule) Protocol {
	l7 := r.Rules
	switch {
	case l7 != nil && l7.HTTP != nil:
		return ProtocolHTTP
	case l7 != nil && l7.DNS != nil:
		return ProtocolDNS
	case l7 != nil && l7.Kafka != nil:
		return ProtocolKafka
	case l7 != nil && l7.L7Proto != "", r.Listener != nil:
		return ProtocolOther
	case len(r.ServerNames) > 0:
		return ProtocolTLS
	}
	return None
}

// add takes the rules of one line in.
func (s *Set) add(r *ciliumv2.PortRule, p Protocol, secrets Secrets) error {
	if len(r.ServerNames) > 0 || r.TerminatingTLS != nil || r.OriginatingTLS != nil {
		return errors.New("rules about TLS are not carried out: they allow nothing")
	}
	switch p {
	case None:
		s.All = true
		return nil
	case ProtocolHTTP:
		return s.addHTTP(r.Rules.HTTP, secrets)
	case ProtocolDNS:
		return s.addDNS(r.Rules.DNS)
	}
	return errors.New("rules of this protocol are not carried out: they allow nothing")
}
