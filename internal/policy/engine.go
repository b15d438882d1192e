// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// Enforcement modes of the option enable-policy.
const (
	EnforceDefault = "default" // endpoints that a policy selects, per direction
	EnforceAlways  = "always"
	EnforceNever   = "never"
)

// Settings of the option allow-localhost.
const (
	LocalhostAuto   = "auto"
	LocalhostAlways = "always"
	LocalhostPolicy = "policy"
)

// Options of the engine. The zero value is a usable default.
type Options struct {
	Enforcement    string // Enforce*; default EnforceDefault
	AllowLocalhost string // "auto" or "always" (default): the host may always reach its pods; "policy": it is a peer like others
	Cluster        string // name of this cluster; default "default"
	CIDRMatchNodes bool   // CIDR rules of CNP and CCNP match nodes (policy-cidr-match-mode)
	CIDRMatchPods  bool   // the same for pods
	NodeLabels     bool   // identities of nodes have the labels of nodes (enable-node-selector-labels)
	IPv4, IPv6     bool   // families in use; both false means both. One family: the world is identity.World
	Audit          bool   // what policy denies passes, and is told (policy-audit-mode)
	Carry          Carry
}

// Treatment of a part of the language.
type Treatment uint8

// Treatments. What is refused denies what it would allow, and the status of
// the object names it.
const (
	Refused    Treatment = iota
	Ignored              // as if it were not written
	Redirected           // the proxy carries it out
)

// Carry says who carries out the parts of the language that the cells do not.
type Carry struct {
	Proxy          Treatment // HTTP and DNS rules, server names, TLS, listeners
	Kafka          Treatment
	L7Proto        Treatment // rules for parsers by name
	Authentication Treatment // Refused or Ignored
}

// Subject is an endpoint of this node as policy sees it.
type Subject struct {
	Endpoint uint16
	// Incarnation differs each time the number of the endpoint is given out
	// again, so that its row in the kernel is taken as empty.
	Incarnation uint32
	Identity    identity.ID
	Labels      label.Set
	IPv4        Address // zero prefix: none
	IPv6        Address
	Ports       []endpoint.Port
	Audit       bool // what policy denies it passes, and is told
}

// Input is everything that policy depends on.
type Input struct {
	Subjects   []Subject
	Identities map[identity.ID]label.Set // all that are known, reserved ones included
	Namespaces map[string]map[string]string
	Addresses  []Address                      // every prefix with its identity; pods of this node included
	Ports      map[netip.Addr][]endpoint.Port // named ports of pods of other nodes, for egress rules
	Objects    []Object
	References *References // what rules name; nil: nothing
}

// ObjectStatus says what became of a policy object.
type ObjectStatus struct {
	Key        string // Object.Key
	UID        string
	Generation int64 // that was judged
	Valid      bool
	Reason     string // why it is quarantined, or which of its fields are not carried out yet
}

// Outcome is the answer to a change of input.
type Outcome struct {
	Ops       []Op
	Revision  uint64 // counts changes of the policy set
	Objects   []ObjectStatus
	Endpoints map[uint16]SubjectOutcome
	// LocalIdentities are the engine's own: one for each prefix in use.
	LocalIdentities map[identity.ID]label.Set
	Explainer       *Explainer // says why
	Stats           Stats
	Err             error // what could not be carried out, such as more slots than there are; the rest holds
}

// Stats count what the kernel holds of policy.
type Stats struct{ Peers, Groups, Classes, Slots, Sets, SetRows, Selectors int }

// SubjectOutcome is what policy decided about an endpoint.
type SubjectOutcome struct {
	Row              EndpointRow
	EnforcingIngress bool
	EnforcingEgress  bool
	Policies         []string // keys of the objects that select it
}

func (o *Options) setDefaults() {
	if o.Enforcement == "" {
		o.Enforcement = EnforceDefault
	}
	if o.AllowLocalhost == "" {
		o.AllowLocalhost = LocalhostAlways
	}
	if o.Cluster == "" {
		o.Cluster = "default"
	}
	if !o.IPv4 && !o.IPv6 {
		o.IPv4, o.IPv6 = true, true
	}
}

func (o *Options) validate() error {
	switch o.Enforcement {
	case EnforceDefault, EnforceAlways, EnforceNever:
	default:
		return fmt.Errorf("enable-policy %q is unknown", o.Enforcement)
	}
	switch o.AllowLocalhost {
	case LocalhostAuto, LocalhostAlways, LocalhostPolicy:
	default:
		return fmt.Errorf("allow-localhost %q is unknown", o.AllowLocalhost)
	}
	return nil
}

// Engine turns input into steps for the kernel. It is not safe for concurrent use.
type Engine struct {
	opts     Options
	state    State // what the kernel holds once all steps given out are carried out
	stamp    uint64
	revision uint64
	matcher  *matcher
	objects  map[string]*cached
	l7       l7Table

	byContent map[string]uint16  // set by its rows
	folded    map[string]*folded // rows by what is folded
	setRows   int
	newSets   []uint32
	setHint   uint32
	setErr    error

	cidrs     map[netip.Prefix]identity.ID
	cidrTaken map[identity.ID]bool
	lastCIDR  identity.ID

	peers, classes, slots *numbers
	incarnations          map[uint16]uint32
}

// cached is an object with the rules it became.
type cached struct {
	object Object
	refs   *References // that the rules were made with
	parsed parsed
	good   *parsed // the last version that was understood
	stamp  uint64
}

type folded struct {
	rows    []SetRow
	content string
	stamp   uint64
}

// New makes an engine over the kernel's state; the engine keeps its own copy.
func New(opts Options, state State) (*Engine, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	e := &Engine{
		opts: opts, state: state.Clone(), matcher: newMatcher(), objects: map[string]*cached{},
		byContent: map[string]uint16{}, folded: map[string]*folded{}, setHint: SetFirst,
		cidrs: map[netip.Prefix]identity.ID{}, cidrTaken: map[identity.ID]bool{}, lastCIDR: identity.LocalCIDR,
		peers: newNumbers(PeerFirst, PeersMax), classes: newNumbers(ClassFirst, ClassMax), slots: newNumbers(SlotOpen+1, SlotClosed),
		incarnations: map[uint16]uint32{},
	}
	e.state.repair()
	e.adopt()
	return e, nil
}

// Inherit takes over what an engine before this one knew about the objects: a
// quarantined one stays in force in its last good version, and revisions go on.
func (e *Engine) Inherit(before *Engine) {
	e.revision = before.revision
	for key, c := range before.objects {
		own := *c
		own.stamp = 0
		e.objects[key] = &own
	}
}

// adopt marks the numbers that the state uses.
func (e *Engine) adopt() {
	for n, rows := range e.state.Sets {
		e.setRows += len(rows)
		if n >= SetFirst && n < SetsMax {
			e.byContent[content(rows)] = uint16(n)
		}
	}
	use := func(peer uint32) {
		e.peers.use(peer)
		e.classes.use(e.state.Peers[peer])
	}
	for p, a := range e.state.Addresses {
		use(a.Peer)
		if isLocalCIDR(a.Identity) {
			e.cidrs[p], e.cidrTaken[a.Identity] = a.Identity, true
			e.lastCIDR = max(e.lastCIDR, a.Identity)
		}
	}
	for _, p := range e.state.IdentityPeer {
		use(p)
	}
	for _, row := range e.state.Endpoints {
		use(row.Peer4)
		use(row.Peer6)
		e.slots.use(uint32(row.Egress))
		e.slots.use(uint32(row.Ingress))
	}
}

func isLocalCIDR(id identity.ID) bool { return id.Scope() == identity.ScopeLocalCIDR }

// State is the state of the kernel once all steps given out are carried out. Do not change it.
func (e *Engine) State() *State { return &e.state }

// Update compares the input with what the kernel holds and gives the steps
// that make up the difference. They must be carried out in order, all of them;
// if one fails, start again with a new engine over the kernel's state.
func (e *Engine) Update(in Input) Outcome {
	e.stamp++
	e.newSets, e.setErr = nil, nil
	out := Outcome{}
	rules := e.parse(&in, &out)
	m := e.compile(&in, rules)
	c := newChange(e, m)
	out.Ops = c.run()
	out.Err = errors.Join(append(m.errs, append(c.errs, e.setErr)...)...)
	out.LocalIdentities = m.local
	out.Revision = e.revision
	out.Endpoints = make(map[uint16]SubjectOutcome, len(m.endpoints))
	for id, w := range m.endpoints {
		out.Endpoints[id] = SubjectOutcome{
			Row: e.state.Endpoints[id], EnforcingIngress: w.enforcing[Ingress], EnforcingEgress: w.enforcing[Egress], Policies: w.policies,
		}
	}
	out.Explainer = newExplainer(&e.opts, &in, rules, &out)
	out.Stats = e.stats(m)
	e.sweep(&in)
	return out
}

func (e *Engine) stats(m *model) Stats {
	s := Stats{Peers: len(m.peers), Groups: len(m.groups), Slots: len(m.slots), Sets: len(e.state.Sets), SetRows: e.setRows, Selectors: len(m.uses)}
	for _, n := range e.classes.state {
		if n == numberUsed {
			s.Classes++
		}
	}
	return s
}

// sweep forgets what the last Updates did not use.
func (e *Engine) sweep(in *Input) {
	const keep = 64 // Updates
	if e.stamp%keep == 0 && e.stamp > keep {
		e.matcher.forget(e.stamp - keep)
		for k, f := range e.folded {
			if f.stamp < e.stamp-keep {
				delete(e.folded, k)
			}
		}
	}
	clear(e.incarnations)
	for i := range in.Subjects {
		e.incarnations[in.Subjects[i].Endpoint] = in.Subjects[i].Incarnation
	}
}

// parse gives the rules of all objects in order of key, and says what became of each object.
func (e *Engine) parse(in *Input, out *Outcome) []*rule {
	var rules []*rule
	refs := cmp.Or(in.References, noReferences)
	order := slices.Clone(in.Objects)
	slices.SortFunc(order, func(a, b Object) int { return strings.Compare(a.Key(), b.Key()) })
	changed := len(order) != len(e.objects)
	for _, o := range order {
		key := o.Key()
		c := e.objects[key]
		if c.stale(o, refs) {
			next := &cached{object: o, refs: refs, parsed: parse(o, &e.opts, refs)}
			if next.parsed.err == nil {
				next.good = &next.parsed
			} else if c != nil && c.object.UID == o.UID {
				next.good = c.good
			}
			changed = changed || c == nil || c.object != o || !sameRules(c.good, next.good)
			c = next
			e.objects[key] = c
		}
		c.stamp = e.stamp
		if c.good != nil {
			rules = append(rules, c.good.rules...)
		}
		out.Objects = append(out.Objects, c.status(key))
	}
	for k, c := range e.objects {
		if c.stamp != e.stamp {
			delete(e.objects, k)
			changed = true
		}
	}
	if changed {
		e.revision++
	}
	return rules
}

// stale tells whether the object has to be parsed again.
func (c *cached) stale(o Object, refs *References) bool {
	return c == nil || c.object != o || c.parsed.refers && c.refs != refs
}

// sameRules tells whether two versions of an object have the same effect.
func sameRules(a, b *parsed) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.EqualFunc(a.rules, b.rules, func(x, y *rule) bool { return x.key == y.key && x.subject.key == y.subject.key })
}

func (c *cached) status(key string) ObjectStatus {
	s := ObjectStatus{Key: key, UID: c.object.UID, Generation: c.object.Generation, Valid: c.parsed.err == nil}
	switch {
	case c.parsed.err != nil && c.good != nil:
		s.Reason = fmt.Sprintf("quarantined: %v; the last good version stays in force", c.parsed.err)
	case c.parsed.err != nil:
		s.Reason = fmt.Sprintf("quarantined: %v", c.parsed.err)
	default:
		var parts []string
		if len(c.parsed.missing) > 0 {
			parts = append(parts, "not carried out: "+strings.Join(c.parsed.missing, ", "))
		}
		s.Reason = strings.Join(append(parts, c.parsed.remarks...), "; ")
	}
	return s
}

// set gives the number of the answer that the items of a slot fold to.
func (e *Engine) set(s *slot, items []*item) uint16 {
	if s.closed {
		return SetDeny
	}
	keys := make([]string, len(items))
	for i, it := range items {
		keys[i] = it.key()
	}
	slices.Sort(keys)
	key := fmt.Sprint(s.base) + strings.Join(slices.Compact(keys), "\n")
	f, ok := e.folded[key]
	if !ok {
		rows := fold(items, s.base, &e.l7)
		f = &folded{rows: rows, content: content(rows)}
		e.folded[key] = f
	}
	f.stamp = e.stamp
	if n, ok := special(f.rows); ok {
		return n
	}
	if n, ok := e.byContent[f.content]; ok {
		return n
	}
	n, err := e.newSet(f.rows)
	if err != nil {
		e.setErr = err
		return SetDeny
	}
	e.byContent[f.content] = n
	return n
}

// newSet numbers rows that no set has yet.
func (e *Engine) newSet(rows []SetRow) (uint16, error) {
	if e.setRows+len(rows) > SetRowMax {
		return SetDeny, fmt.Errorf("more than %d set rows: what does not fit is denied", SetRowMax)
	}
	for range SetsMax - SetFirst {
		n := e.setHint
		if e.setHint++; e.setHint >= SetsMax {
			e.setHint = SetFirst
		}
		if _, taken := e.state.Sets[n]; !taken {
			e.state.Sets[n] = rows
			e.setRows += len(rows)
			e.newSets = append(e.newSets, n)
			return uint16(n), nil
		}
	}
	return SetDeny, fmt.Errorf("more than %d sets: what does not fit is denied", SetsMax-SetFirst)
}

// worlds are the rows that hold every address.
func (e *Engine) worlds() []Address {
	four, six := identity.WorldIPv4, identity.WorldIPv6
	if !e.opts.IPv4 || !e.opts.IPv6 {
		four, six = identity.World, identity.World
	}
	var out []Address
	if e.opts.IPv4 {
		out = append(out, Address{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Identity: four})
	}
	if e.opts.IPv6 {
		out = append(out, Address{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Identity: six})
	}
	return out
}

// cidrIdentity is the node-local number of a prefix; it stays as long as the prefix is in use.
func (e *Engine) cidrIdentity(p netip.Prefix) identity.ID {
	if id, ok := e.cidrs[p]; ok {
		return id
	}
	for {
		if e.lastCIDR++; e.lastCIDR >= identity.LocalNode {
			e.lastCIDR = identity.LocalCIDR + 1
		}
		if !e.cidrTaken[e.lastCIDR] {
			break
		}
	}
	e.cidrs[p], e.cidrTaken[e.lastCIDR] = e.lastCIDR, true
	return e.lastCIDR
}

// keepCIDRs forgets the numbers of all other prefixes.
func (e *Engine) keepCIDRs(own map[netip.Prefix]bool) {
	for p, id := range e.cidrs {
		if !own[p] {
			delete(e.cidrs, p)
			delete(e.cidrTaken, id)
		}
	}
}

// cidrLabels are the labels of a prefix outside the cluster.
func (e *Engine) cidrLabels(p netip.Prefix) label.Set {
	world := identity.LabelWorld
	if e.opts.IPv4 && e.opts.IPv6 {
		if world = identity.LabelWorldIPv6; p.Addr().Is4() {
			world = identity.LabelWorldIPv4
		}
	}
	return label.NewSet(label.Label{Source: label.SourceReserved, Key: world}, label.Label{Source: label.SourceCIDR, Key: cidrKey(p)})
}

// cidrKey writes a prefix without colons, which would end the source of a label.
func cidrKey(p netip.Prefix) string {
	addr := p.Addr().String()
	if p.Addr().Is6() {
		if strings.HasPrefix(addr, "::") {
			addr = "0" + addr
		}
		if strings.HasSuffix(addr, "::") {
			addr += "0"
		}
		addr = strings.ReplaceAll(addr, ":", "-")
	}
	return fmt.Sprintf("%s/%d", addr, p.Bits())
}

// age is 0 for endpoints that the kernel holds already, 1 for new ones.
func (e *Engine) age(s *Subject) int {
	if e.holds(s) {
		return 0
	}
	return 1
}

// holds tells whether the kernel's row of an endpoint is that of this incarnation.
func (e *Engine) holds(s *Subject) bool {
	_, ok := e.state.Endpoints[s.Endpoint]
	if incarnation, known := e.incarnations[s.Endpoint]; known && incarnation != s.Incarnation {
		return false
	}
	return ok
}
