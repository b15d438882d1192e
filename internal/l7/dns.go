// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"errors"
	"fmt"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/dnsname"
)

func (s *Set) addDNS(rules []ciliumv2.FQDNSelector) error {
	if len(rules) == 0 {
		s.All = true
	}
	var errs []error
	for i := range rules {
		p, err := compileDNS(&rules[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("dns[%d]: %w", i, err))
			continue
		}
		s.dns.Add(p)
	}
	s.All = s.All || s.dns.All()
	return errors.Join(errs...)
}

func compileDNS(in *ciliumv2.FQDNSelector) (dnsname.Pattern, error) {
	switch {
	case in.MatchName == "" && in.MatchPattern == "":
		return dnsname.Pattern{}, errors.New("neither matchName nor matchPattern is given")
	case in.MatchName != "" && in.MatchPattern != "":
		return dnsname.Pattern{}, errors.New("matchName and matchPattern are both given")
	case in.MatchPattern != "":
		return dnsname.ParsePattern(in.MatchPattern)
	}
	return dnsname.ParseName(in.MatchName)
}

// DNS tells whether the rules allow a question about a canonical name. It does
// not allocate.
func (s *Set) DNS(name string) bool { return s.All || s.dns.Match(name) }
