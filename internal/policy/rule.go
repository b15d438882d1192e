// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/label"
)

// Tiers are judged in this order; a lower tier is asked only where the ones
// before it have no rule or pass.
const (
	tierAdmin    = 100
	tierNormal   = 200
	tierBaseline = 250
)

// pass hands the judgement to the next tier. It never reaches the kernel.
const pass Verdict = 255

// IANA numbers of the protocols that rules speak of.
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132
)

// portRange is a range of ports of one protocol, or all there is of it.
type portRange struct {
	protocol    uint8  // 0: any protocol; with ports: TCP, UDP and SCTP
	first, last uint16 // ICMP: type
	all         bool   // first and last do not count: every port
	name        string // a named port, first and last do not count
}

func (p portRange) String() string {
	switch {
	case p.name != "":
		return fmt.Sprintf("%d/%s", p.protocol, p.name)
	case p.all:
		return fmt.Sprintf("%d/*", p.protocol)
	}
	return fmt.Sprintf("%d/%d-%d", p.protocol, p.first, p.last)
}

// hits tells whether the range holds a port of a protocol; port -1: no port known.
func (p portRange) hits(protocol uint8, port int) bool {
	if p.protocol != 0 && p.protocol != protocol {
		return false
	}
	if p.all {
		return true
	}
	if p.protocol == 0 && protocol != protoTCP && protocol != protoUDP && protocol != protoSCTP {
		return false
	}
	return port >= int(p.first) && port <= int(p.last)
}

// Origin says where in which object a rule stands.
type Origin struct {
	Object string // Object.Key
	Path   string // such as spec.ingress[1]
}

func (o Origin) String() string { return strings.TrimSpace(o.Object + " " + o.Path) }

// l7Rules are what a redirected connection must obey.
type l7Rules struct {
	key string // equal for equal rules
}

// rule is what all kinds of policy become: it selects subjects, and says what
// they may exchange in one direction with which peers on which ports.
type rule struct {
	origin      Origin
	tier        uint8
	priority    uint32 // within the tier, lower first
	direction   Direction
	subject     *selector
	peers       []*selector // any of them; empty: none
	ports       []portRange // any of them; nil: everything
	verdict     Verdict
	l7          *l7Rules
	defaultDeny bool
	audit       bool   // its object is audited: what it denies is only told
	looseNames  bool   // peers that are not pods have every named port
	key         string // equal for rules of equal effect
}

// seal computes the rule's key.
func (r *rule) seal() *rule {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d %d %d %t %t %t %v (", r.tier, r.priority, r.direction, r.verdict, r.defaultDeny, r.audit, r.looseNames, r.ports)
	for _, s := range r.peers {
		b.WriteString(s.key)
		b.WriteString(" ; ")
	}
	b.WriteByte(')')
	if r.ports == nil {
		b.WriteString(" all")
	}
	if r.l7 != nil {
		b.WriteString(r.l7.key)
	}
	r.key = b.String()
	return r
}

// parsed is an object as rules.
type parsed struct {
	rules   []*rule
	missing []string // fields that are not carried out
	remarks []string // what else its author should know
	refers  bool     // it names References
	audit   bool     // of all its rules
	err     error    // quarantined
}

// remark tells the author something, once.
func (p *parsed) remark(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(p.remarks, s) {
		p.remarks = append(p.remarks, s)
	}
}

// note records a field that is not carried out, once.
func (p *parsed) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(p.missing, s) {
		p.missing = append(p.missing, s)
	}
}

func (p *parsed) add(r *rule) {
	r.audit = p.audit
	p.rules = append(p.rules, r.seal())
}

// reserved makes the requirement that a reserved label is there.
func reserved(name string) requirement {
	return requirement{source: label.SourceReserved, key: name, op: opExists}
}
