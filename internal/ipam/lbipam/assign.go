// SPDX-License-Identifier: Apache-2.0

package lbipam

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Options of a cluster.
type Options struct {
	Default bool // Services without loadBalancerClass get addresses, too
}

// Verdict is what a Service should have.
type Verdict struct {
	Release   bool // it is no load balancer of ours any more: no address, no condition
	Addresses []netip.Addr
	Condition metav1.Condition // without times
}

// Outcome is what Services and pools should say.
type Outcome struct {
	Services map[string]Verdict // by namespace/name; who is absent is somebody else's
	Pools    map[string]*PoolState
}

// Assign says which Service has which addresses. Those that Services have stay,
// as long as a pool has them and nothing else was asked for. Addresses that
// somebody else gave are left alone, and nobody else gets them.
func Assign(pools []Pool, services []Service, o Options) Outcome {
	a := assigner{options: o, taken: map[netip.Addr][]*Service{}, out: Outcome{Services: map[string]Verdict{}}, next: map[cursor]netip.Addr{}}
	a.pools, a.out.Pools = judge(pools)
	all := slices.Clone(services)
	slices.SortFunc(all, func(x, y Service) int {
		return cmp.Or(x.Created.Compare(y.Created), strings.Compare(x.ObjectKey(), y.ObjectKey()))
	})
	var ours []*Service
	for i := range all {
		s := &all[i]
		switch {
		case a.ours(s):
			ours = append(ours, s)
		case !s.LoadBalancer && s.mark() != "":
			a.out.Services[s.ObjectKey()] = Verdict{Release: true}
		default:
			for _, ip := range s.has() {
				a.taken[ip] = append(a.taken[ip], &Service{Namespace: s.Namespace, Name: s.Name})
			}
		}
	}
	kept := map[*Service][]netip.Addr{}
	for _, s := range ours {
		kept[s] = a.keep(s)
	}
	for _, s := range ours {
		a.out.Services[s.ObjectKey()] = a.complete(s, kept[s])
	}
	a.count()
	return a.out
}

type assigner struct {
	options Options
	pools   []Pool // the oldest first
	taken   map[netip.Addr][]*Service
	next    map[cursor]netip.Addr
	out     Outcome
}

// cursor is a range of a pool, all of whose addresses before next are taken.
type cursor struct {
	pool string
	r    Range
}

// ours tells whether the Service's addresses are ours to give.
func (a *assigner) ours(s *Service) bool {
	if !s.LoadBalancer || s.Class == "" && !a.options.Default || s.Class != "" && !slices.Contains(classes, s.Class) {
		return false
	}
	switch s.mark() {
	case metav1.ConditionTrue:
		return true
	case "":
		// Without pools nothing is told; what has an address got it from somebody else.
		return len(s.Ingress) == 0 && len(a.pools) > 0
	}
	// We gave it less than it wanted: what no pool has is of somebody else.
	return !slices.ContainsFunc(s.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.Hostname != "" }) &&
		!slices.ContainsFunc(s.has(), func(ip netip.Addr) bool {
			return !slices.ContainsFunc(a.pools, func(p Pool) bool { return p.Contains(ip) })
		})
}

// keep takes what the Service has and may keep.
func (a *assigner) keep(s *Service) (out []netip.Addr) {
	set := s.labels()
	for _, ip := range s.has() {
		matches := slices.ContainsFunc(a.pools, func(p Pool) bool { return p.Contains(ip) && p.Selector.Matches(set) })
		if !matches || !s.wants(ip) || len(s.Asked) > 0 && !slices.Contains(s.Asked, ip) || slices.Contains(out, ip) ||
			len(s.Asked) == 0 && slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == ip.Is4() }) || a.refusal(s, ip) != "" {
			continue
		}
		a.taken[ip] = append(a.taken[ip], s)
		out = append(out, ip)
	}
	return out
}

// refusal tells why s cannot have an address besides those who have it.
func (a *assigner) refusal(s *Service, ip netip.Addr) string {
	for _, other := range a.taken[ip] {
		if why := s.apart(other); why != "" {
			return fmt.Sprintf("Service %s has it: %s", other.ObjectKey(), why)
		}
	}
	return ""
}

// complete gives what is missing.
func (a *assigner) complete(s *Service, have []netip.Addr) Verdict {
	v := Verdict{Addresses: have}
	var missing []metav1.Condition
	fail := func(reason, format string, args ...any) {
		missing = append(missing, metav1.Condition{Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	if s.AskedErr != "" {
		fail(ReasonInvalid, "what is asked for is not understood: %s", s.AskedErr)
	}
	if len(s.Asked) > 0 || s.AskedErr != "" {
		for _, ip := range s.Asked {
			if reason, text := a.asked(s, ip, v.Addresses); reason != "" {
				fail(reason, "%s", text)
			} else if !slices.Contains(v.Addresses, ip) {
				a.taken[ip] = append(a.taken[ip], s)
				v.Addresses = append(v.Addresses, ip)
			}
		}
	} else {
		for _, four := range []bool{true, false} {
			if four && !s.Want4 || !four && !s.Want6 || slices.ContainsFunc(v.Addresses, func(ip netip.Addr) bool { return ip.Is4() == four }) {
				continue
			}
			ip, reason, text := a.find(s, four)
			if reason != "" {
				fail(reason, "%s", text)
				continue
			}
			a.taken[ip] = append(a.taken[ip], s)
			v.Addresses = append(v.Addresses, ip)
		}
	}
	slices.SortFunc(v.Addresses, netip.Addr.Compare)
	v.Condition = metav1.Condition{Type: Satisfied, Status: metav1.ConditionTrue, Reason: ReasonSatisfied}
	if len(missing) > 0 {
		v.Condition.Status, v.Condition.Reason = metav1.ConditionFalse, missing[0].Reason
		var texts []string
		for _, m := range missing {
			texts = append(texts, m.Message)
		}
		v.Condition.Message = strings.Join(texts, "; ")
	}
	return v
}

// asked tells why a Service cannot have the address that it asks for.
func (a *assigner) asked(s *Service, ip netip.Addr, have []netip.Addr) (reason, text string) {
	if slices.Contains(have, ip) {
		return "", ""
	}
	if !s.wants(ip) {
		return ReasonInvalid, fmt.Sprintf("%s is not of a family of the Service", ip)
	}
	set := s.labels()
	open := slices.ContainsFunc(a.pools, func(p Pool) bool { return a.open(&p) && p.Contains(ip) && p.Selector.Matches(set) })
	if !open {
		return ReasonNoPool, fmt.Sprintf("no enabled pool that matches this Service has %s", ip)
	}
	if why := a.refusal(s, ip); why != "" {
		reason = ReasonTaken
		if s.Key != "" {
			reason = ReasonIncompatible
		}
		return reason, fmt.Sprintf("%s: %s", ip, why)
	}
	return "", ""
}

// open tells whether a pool gives out addresses.
func (a *assigner) open(p *Pool) bool { return !p.Disabled && a.out.Pools[p.Name].Conflict == "" }

// find looks for an address: one that the Service may share, then a free one.
func (a *assigner) find(s *Service, four bool) (ip netip.Addr, reason, text string) {
	family := map[bool]string{true: "IPv4", false: "IPv6"}[four]
	set := s.labels()
	var matching []*Pool
	for i := range a.pools {
		p := &a.pools[i]
		if a.open(p) && p.Selector.Matches(set) && slices.ContainsFunc(p.Ranges, func(r Range) bool { return r.First.Is4() == four }) {
			matching = append(matching, p)
		}
	}
	if len(matching) == 0 {
		return ip, ReasonNoPool, "no enabled pool with " + family + " addresses matches this Service"
	}
	if s.Key != "" {
		if ip, ok := a.shared(s, four, matching); ok {
			return ip, "", ""
		}
	}
	for _, p := range matching {
		for _, r := range p.Ranges {
			if r.First.Is4() != four {
				continue
			}
			if ip, ok := a.free(cursor{p.Name, r}); ok {
				return ip, "", ""
			}
		}
	}
	return ip, ReasonFull, "every " + family + " address of the pools that match this Service is taken"
}

// shared is the lowest address of Services that this one may share it with.
func (a *assigner) shared(s *Service, four bool, pools []*Pool) (found netip.Addr, ok bool) {
	for ip, holders := range a.taken {
		if len(holders) > 0 && ip.Is4() == four && a.refusal(s, ip) == "" && (!ok || ip.Less(found)) &&
			slices.ContainsFunc(pools, func(p *Pool) bool { return p.Contains(ip) }) {
			found, ok = ip, true
		}
	}
	return found, ok
}

// free is the first address of a range that nobody has. Addresses are only taken
// while Assign runs, so that the search goes on where it ended.
func (a *assigner) free(c cursor) (netip.Addr, bool) {
	ip, seen := a.next[c]
	if !seen {
		ip = c.r.First
	}
	for ip.IsValid() && c.r.Contains(ip) && len(a.taken[ip]) > 0 {
		ip = ip.Next()
	}
	a.next[c] = ip
	return ip, ip.IsValid() && c.r.Contains(ip)
}

// count fills in how much of each pool is taken.
func (a *assigner) count() {
	one := big.NewInt(1)
	for i := range a.pools {
		state := a.out.Pools[a.pools[i].Name]
		for ip, holders := range a.taken {
			if len(holders) > 0 && a.pools[i].Contains(ip) {
				state.Used.Add(state.Used, one)
			}
		}
		state.Available = new(big.Int).Sub(state.Total, state.Used)
	}
}
