// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	pb "github.com/stentor-net/stentor/api/flow"
)

// Filter selects records. It is compiled once for a request; to match
// allocates nothing but for the fields whose text is made from numbers.
type Filter struct {
	allow, deny []conjunction
}

// conjunction matches if all of its tests do.
type conjunction []test

type test func(*Record) bool

// Scope is what filters ask about besides records.
type Scope struct {
	Node      string   // cluster/name of the node
	Labels    []string // key=value, of the node
	Cluster   string
	UUID      func(*Record) string
	Interface func(index uint32) string
}

// NewFilter compiles lists of filters: a record passes if no filter of the deny
// list matches and, unless the allow list is empty, one of it does.
func NewFilter(allow, deny []*pb.FlowFilter, s Scope) (*Filter, error) {
	f := &Filter{}
	for _, list := range []struct {
		name string
		in   []*pb.FlowFilter
		out  *[]conjunction
	}{{"whitelist", allow, &f.allow}, {"blacklist", deny, &f.deny}} {
		for i, one := range list.in {
			c, err := compile(one, s)
			if err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", list.name, i, err)
			}
			*list.out = append(*list.out, c)
		}
	}
	return f, nil
}

// Match tells whether a record passes. A nil Filter lets all pass.
func (f *Filter) Match(r *Record) bool {
	if f == nil {
		return true
	}
	matches := func(c conjunction) bool {
		for _, t := range c {
			if !t(r) {
				return false
			}
		}
		return true
	}
	return !slices.ContainsFunc(f.deny, matches) && (len(f.allow) == 0 || slices.ContainsFunc(f.allow, matches))
}

// compiler collects the tests of one filter and the first error.
type compiler struct {
	scope Scope
	tests conjunction
	err   error
}

func compile(f *pb.FlowFilter, s Scope) (conjunction, error) {
	c := &compiler{scope: s}
	c.ends(f)
	c.packet(f)
	c.verdict(f)
	c.where(f)
	c.layer7(f)
	if len(f.GetExperimental().GetCelExpression()) > 0 {
		c.fail("experimental.cel_expression", "", "expressions are not supported")
	}
	return c.tests, c.err
}

func (c *compiler) fail(field, value, problem string) {
	if c.err == nil {
		if value != "" {
			problem = fmt.Sprintf("%q: %s", value, problem)
		}
		c.err = fmt.Errorf("%s: %s", field, problem)
	}
}

// each compiles the values of a field, of which one has to match.
func each[V any](c *compiler, values []V, one func(V) test) {
	if len(values) == 0 {
		return
	}
	tests := make([]test, 0, len(values))
	for _, v := range values {
		tests = append(tests, one(v))
	}
	if len(tests) == 1 {
		c.tests = append(c.tests, tests[0])
		return
	}
	c.tests = append(c.tests, func(r *Record) bool {
		return slices.ContainsFunc(tests, func(t test) bool { return t != nil && t(r) })
	})
}

// oneOf tests that a number is in a list.
func oneOf[V comparable](c *compiler, values []V, get func(*Record) V) {
	if len(values) > 0 {
		c.tests = append(c.tests, func(r *Record) bool { return slices.Contains(values, get(r)) })
	}
}

// end is one side of a record.
type end struct {
	name     string
	addr     func(*Record) netip.Addr
	port     func(*Record) uint16
	party    func(*Record) *Party
	service  func(*Record) *pb.Service
	identity func(*Record) uint32
}

var (
	sourceEnd = end{
		"source", func(r *Record) netip.Addr { return r.Source.Addr() }, func(r *Record) uint16 { return r.Source.Port() },
		func(r *Record) *Party { return r.SourceParty }, func(r *Record) *pb.Service { return r.SourceService },
		func(r *Record) uint32 { return r.SourceIdentity },
	}
	destinationEnd = end{
		"destination", func(r *Record) netip.Addr { return r.Destination.Addr() }, func(r *Record) uint16 { return r.Destination.Port() },
		func(r *Record) *Party { return r.DestinationParty }, func(r *Record) *pb.Service { return r.DestinationService },
		func(r *Record) uint32 { return r.DestinationIdentity },
	}
)

func (c *compiler) ends(f *pb.FlowFilter) {
	c.end(sourceEnd, f.GetSourceIp(), f.GetSourcePod(), f.GetSourceFqdn(), f.GetSourceLabel(), f.GetSourceService(), f.GetSourceClusterName(), f.GetSourcePort(), f.GetSourceWorkload(), f.GetSourceIdentity())
	c.end(destinationEnd, f.GetDestinationIp(), f.GetDestinationPod(), f.GetDestinationFqdn(), f.GetDestinationLabel(), f.GetDestinationService(), f.GetDestinationClusterName(), f.GetDestinationPort(), f.GetDestinationWorkload(), f.GetDestinationIdentity())
	each(c, f.GetSourceIpXlated(), func(v string) test {
		return c.addr("source_ip_xlated", v, func(r *Record) netip.Addr { return r.Translated })
	})
}

func (c *compiler) end(e end, ips, pods, names, selectors, services, clusters, ports []string, workloads []*pb.Workload, identities []uint32) {
	each(c, ips, func(v string) test { return c.addr(e.name+"_ip", v, e.addr) })
	each(c, pods, func(v string) test {
		return namespaced(v, func(r *Record) (string, string, bool) {
			p := e.party(r)
			if p == nil {
				return "", "", false
			}
			return p.Endpoint.GetNamespace(), p.Endpoint.GetPodName(), p.Endpoint.GetPodName() != ""
		})
	})
	each(c, services, func(v string) test {
		return namespaced(v, func(r *Record) (string, string, bool) {
			s := e.service(r)
			return s.GetNamespace(), s.GetName(), s != nil
		})
	})
	each(c, names, func(v string) test {
		match := c.pattern(e.name+"_fqdn", v)
		return func(r *Record) bool { return slices.ContainsFunc(e.party(r).names(), match) }
	})
	each(c, selectors, func(v string) test {
		selector, err := labels.Parse(strings.ReplaceAll(v, ":", "."))
		if err != nil {
			c.fail(e.name+"_label", v, err.Error())
			return nil
		}
		return func(r *Record) bool {
			p := e.party(r)
			return p != nil && selector.Matches(p.labels)
		}
	})
	each(c, clusters, func(v string) test {
		return func(r *Record) bool { p := e.party(r); return p != nil && p.Endpoint.GetClusterName() == v }
	})
	each(c, ports, func(v string) test { return c.port(e, v) })
	each(c, workloads, func(v *pb.Workload) test {
		return func(r *Record) bool {
			p := e.party(r)
			return p != nil && slices.ContainsFunc(p.Endpoint.GetWorkloads(), func(w *pb.Workload) bool {
				return (v.GetName() == "" || v.GetName() == w.GetName()) && (v.GetKind() == "" || v.GetKind() == w.GetKind())
			})
		}
	})
	oneOf(c, identities, e.identity)
}

// addr tests for an address or a prefix.
func (c *compiler) addr(field, v string, get func(*Record) netip.Addr) test {
	if strings.Contains(v, "/") {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			c.fail(field, v, "is no prefix")
			return nil
		}
		p = p.Masked()
		return func(r *Record) bool { return p.Contains(get(r)) }
	}
	a, err := netip.ParseAddr(v)
	if err != nil {
		c.fail(field, v, "is no address")
		return nil
	}
	return func(r *Record) bool { return get(r) == a }
}

// namespaced tests for namespace/prefix-of-name; "namespace/" is everything in
// it, a name alone is in namespace default, "/name" is in any.
func namespaced(v string, get func(*Record) (namespace, name string, ok bool)) test {
	namespace, name, both := strings.Cut(v, "/")
	if !both {
		namespace, name = "default", v
	}
	return func(r *Record) bool {
		ns, n, ok := get(r)
		return ok && (namespace == "" || namespace == ns) && strings.HasPrefix(n, name)
	}
}

// pattern matches DNS names; * stands for any number of characters that a name may have.
func (c *compiler) pattern(field, v string) func(string) bool {
	v = strings.ToLower(strings.TrimSuffix(strings.TrimSpace(v), "."))
	if v == "" || strings.ContainsFunc(v, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.*", r))
	}) {
		c.fail(field, v, "is no name: letters, digits, -, _, . and * are")
		return nil
	}
	re := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(v), `\*`, `[-a-z0-9_.]*`) + "$")
	return func(name string) bool { return re.MatchString(strings.ToLower(strings.TrimSuffix(name, "."))) }
}

// expression compiles a regular expression (RE2) that may match anywhere.
func (c *compiler) expression(field, v string) *regexp.Regexp {
	re, err := regexp.Compile(v)
	if err != nil {
		c.fail(field, v, err.Error())
		return regexp.MustCompile("$^")
	}
	return re
}
