// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/abi"
)

// filter picks events: alternatives of one key, all keys together.
type filter map[string][]string

func newFilter(query url.Values) (filter, error) {
	f := filter{}
	known := []string{
		rest.FilterType, rest.FilterEndpoint, rest.FilterFrom, rest.FilterTo, rest.FilterRelated,
		rest.FilterPort, rest.FilterProtocol, rest.FilterVerdict,
	}
	for key, values := range query {
		if !slices.Contains(known, key) {
			return nil, httpError{http.StatusBadRequest, fmt.Sprintf("there is no filter %q; there are %s", key, strings.Join(known, ", "))}
		}
		f[key] = values
	}
	return f, nil
}

func (f filter) matches(e rest.Event) bool {
	if e.Type == rest.EventLost {
		return true
	}
	for key, values := range f {
		if !slices.ContainsFunc(values, func(v string) bool { return matchesOne(key, v, e) }) {
			return false
		}
	}
	return true
}

func matchesOne(key, value string, e rest.Event) bool {
	switch key {
	case rest.FilterType:
		return e.Type == value || value == rest.EventVerdict && deniedByPolicy(e)
	case rest.FilterVerdict:
		return e.Verdict == value
	case rest.FilterProtocol:
		return strings.EqualFold(e.Protocol, value)
	case rest.FilterPort:
		n, err := strconv.ParseUint(value, 10, 16)
		return err == nil && (e.Source.Port == uint16(n) || e.Dest.Port == uint16(n))
	case rest.FilterEndpoint:
		own := e.Source
		if e.Direction == "ingress" {
			own = e.Dest
		}
		return strconv.Itoa(int(e.Endpoint)) == value || own.Pod == value
	case rest.FilterFrom:
		return matchesParty(value, e.Source, e, "egress")
	case rest.FilterTo:
		return matchesParty(value, e.Dest, e, "ingress")
	case rest.FilterRelated:
		return matchesParty(value, e.Source, e, "egress") || matchesParty(value, e.Dest, e, "ingress")
	}
	return false
}

// deniedByPolicy tells whether a drop is a verdict of policy: the datapath sends
// one event for both.
func deniedByPolicy(e rest.Event) bool {
	return e.Type == rest.EventDrop && (e.Reason == abi.ReasonPolicyDenied || e.Reason == abi.ReasonPolicyDeniedExplicit)
}

// matchesParty tells whether a value names one end: an endpoint's number (of the
// event's endpoint, if that is this end), a pod, an address, a prefix or an identity.
func matchesParty(value string, p rest.EventParty, e rest.Event, direction string) bool {
	if id, ok := strings.CutPrefix(value, "identity:"); ok {
		return strconv.FormatInt(p.Identity, 10) == id
	}
	if value == p.Pod || value == p.IP {
		return value != ""
	}
	if prefix, err := netip.ParsePrefix(value); err == nil {
		ip, err := netip.ParseAddr(p.IP)
		return err == nil && prefix.Contains(ip)
	}
	return e.Direction == direction && strconv.Itoa(int(e.Endpoint)) == value
}
