// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

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
	HTTP           Treatment
	DNS            Treatment
	Kafka          Treatment
	L7Proto        Treatment // rules for parsers by name
	TLS            Treatment // server names, terminated and originated TLS
	Listener       Treatment
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

// LocalIdentities are what changed about the engine's own identities: there is
// one for each prefix in use.
type LocalIdentities struct {
	New  map[identity.ID]label.Set
	Gone []identity.ID
}

// Outcome is the answer to a change of input. Objects and Endpoints are about
// all there are; they are the same slice and map as before if nothing changed
// about any, and are never written to.
type Outcome struct {
	Ops       []Op
	Revision  uint64 // counts changes of the policy set
	Objects   []ObjectStatus
	Endpoints map[uint16]SubjectOutcome
	Local     LocalIdentities
	Explainer *Explainer // says why
	Stats     Stats
	Err       error // what could not be carried out, such as more slots than there are; the rest holds
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

// Engine turns input into steps for the kernel. Apply and Update are for one
// goroutine at a time; the Explainers that they give are for any.
type Engine struct {
	mu       sync.RWMutex // Explainers read what Apply changes
	opts     Options
	state    State       // what the kernel holds once all steps given out are carried out
	lengths  [2][129]int // rows of state.Addresses by family and length
	stamp    uint64
	revision uint64
	now      *touched // by the change that is being worked on

	objects    map[string]*cached
	inherited  map[string]*cached // of the engine before
	refs       *References
	ruling     *Ruling        // never changed, only replaced
	statuses   []ObjectStatus // never changed, only replaced
	subjects   map[uint16]*subject
	outcomes   map[uint16]SubjectOutcome // never changed, only replaced
	open       *slot
	slots      map[string]*slot
	slotSerial uint64
	bySlot     [SlotsMax]*slot
	live       []uint16 // numbers in use, in order
	shut       []*slot  // that there was no number for

	ids        *idents
	addr       *addresses
	groups     *grouping
	grid       *grid
	sets       *sets
	uses       []*use // by id; nil: free
	freeUses   []int32
	useByKey   map[string]*use
	unknown    *peer
	unresolved *peer

	cidrs     map[netip.Prefix]identity.ID
	cidrTaken map[identity.ID]bool
	lastCIDR  identity.ID

	peers, classes, slotNumbers *numbers
	byNumber                    []*peer        // by peer number
	byClass                     []*row         // by class number
	unnumbered                  map[*peer]bool // that there was no number for
	homeless                    map[*row]bool  // that there was no class for
	parts                       []slotPart     // where endpoints are
	incarnations                map[uint16]uint32
}

// cached is an object with the rules it became.
type cached struct {
	object Object
	refs   *References // that the rules were made with
	parsed parsed
	good   *parsed // the last version that was understood
}

// New makes an engine over the kernel's state; the engine keeps its own copy.
func New(opts Options, state State) (*Engine, error) {
	opts.setDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	e := &Engine{
		opts: opts, state: state.Clone(), objects: map[string]*cached{}, refs: noReferences, subjects: map[uint16]*subject{},
		open: openSlot(), slots: map[string]*slot{}, live: []uint16{SlotOpen}, ids: newIdents(), addr: newAddresses(), groups: newGrouping(),
		grid: &grid{byHash: map[uint64][]*row{}}, sets: newSets(), useByKey: map[string]*use{},
		cidrs: map[netip.Prefix]identity.ID{}, cidrTaken: map[identity.ID]bool{}, lastCIDR: identity.LocalCIDR,
		peers: newNumbers(PeerFirst, PeersMax), classes: newNumbers(ClassFirst, ClassMax), slotNumbers: newNumbers(SlotOpen+1, SlotClosed),
		byNumber: make([]*peer, PeersMax), byClass: make([]*row, ClassMax), unnumbered: map[*peer]bool{}, homeless: map[*row]bool{},
		incarnations: map[uint16]uint32{},
	}
	e.bySlot[SlotOpen] = e.open
	e.grid.blank[SlotOpen] = e.answer(e.open, nil)
	e.unknown, e.unresolved = e.standIn(PeerUnknown, ClassUnknown), e.standIn(PeerUnresolved, ClassUnresolved)
	e.state.repair()
	e.adopt()
	return e, nil
}

// standIn makes one of the two peers for those that are not known.
func (e *Engine) standIn(number, class uint32) *peer {
	r := &row{class: class, groups: 1}
	r.put(SlotOpen, SetAllow)
	e.byClass[class] = r
	p := &peer{number: number, extra: e.groups.none, refs: 1}
	g := &group{base: &base{}, extra: e.groups.none, row: r, at: -1, class: class}
	g.enter(p, 0)
	e.byNumber[number] = p
	return p
}

// Inherit takes over what an engine before this one knew about the objects: a
// quarantined one stays in force in its last good version, and revisions go on.
func (e *Engine) Inherit(before *Engine) {
	e.revision = before.revision
	e.inherited = maps.Clone(before.objects)
}

// adopt marks the numbers that the state uses.
func (e *Engine) adopt() {
	for _, n := range slices.Sorted(maps.Keys(e.state.Sets)) {
		e.sets.adopt(uint16(n), e.state.Sets[n])
	}
	use := func(peer uint32) {
		e.peers.use(peer)
		e.classes.use(e.state.Peers[peer])
	}
	for p, a := range e.state.Addresses {
		e.lengths[familyOf(p)][p.Bits()]++
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
		e.slotNumbers.use(uint32(row.Egress))
		e.slotNumbers.use(uint32(row.Ingress))
	}
}

func familyOf(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

func isLocalCIDR(id identity.ID) bool { return id.Scope() == identity.ScopeLocalCIDR }

// State is the state of the kernel once all steps given out are carried out. Do not change it.
func (e *Engine) State() *State { return &e.state }

// Update takes the whole input and applies what differs from that before.
func (e *Engine) Update(in Input) Outcome { return e.Apply(e.difference(&in)) }

// outcome says what the change that was worked on has led to.
func (e *Engine) outcome(ops []Op, errs []error) Outcome {
	t := e.now
	e.now = nil
	if t.objects {
		e.revision++
	}
	if t.objects || t.statuses || e.statuses == nil {
		e.statuses = make([]ObjectStatus, 0, len(e.objects))
		for _, key := range slices.Sorted(maps.Keys(e.objects)) {
			e.statuses = append(e.statuses, e.objects[key].status(key))
		}
	}
	shown := len(t.endpoints)+len(t.columns) > 0 || e.outcomes == nil
	if shown {
		e.showEndpoints()
	}
	if t.objects || t.statuses || shown && e.anyClosed() || e.ruling == nil {
		e.ruling = e.newRuling()
	}
	return Outcome{
		Ops: ops, Revision: e.revision, Objects: e.statuses, Endpoints: e.outcomes, Local: t.local,
		Explainer: &Explainer{Ruling: e.ruling, facts: e},
		Stats:     e.stats(), Err: errors.Join(append(errs, e.shortages()...)...),
	}
}

func (e *Engine) showEndpoints() {
	e.outcomes = make(map[uint16]SubjectOutcome, len(e.subjects))
	for id, s := range e.subjects {
		e.outcomes[id] = SubjectOutcome{
			Row: e.state.Endpoints[id], EnforcingIngress: s.enforcing[Ingress], EnforcingEgress: s.enforcing[Egress], Policies: s.policies(),
		}
	}
}

// anyClosed tells whether there is a slot without a number, or was.
func (e *Engine) anyClosed() bool {
	return len(e.shut) > 0 || e.ruling != nil && len(e.ruling.closed) > 0
}

// newRuling is the policy in force now.
func (e *Engine) newRuling() *Ruling {
	r := &Ruling{opts: e.opts, revision: e.revision, closed: map[uint16][2]bool{}}
	for _, key := range slices.Sorted(maps.Keys(e.objects)) {
		if c := e.objects[key]; c.good != nil {
			r.rules = append(r.rules, c.good.rules...)
		}
	}
	for id, s := range e.subjects {
		if closed := [2]bool{s.slots[Egress].closed, s.slots[Ingress].closed}; closed[Egress] || closed[Ingress] {
			r.closed[id] = closed
		}
	}
	return r
}

// shortages are what could not be carried out for want of numbers.
func (e *Engine) shortages() (errs []error) {
	if len(e.shut) > 0 {
		errs = append(errs, fmt.Errorf("%d slots are more than there are numbers (%d): their endpoints are closed", len(e.shut), SlotClosed-1))
	}
	if len(e.homeless) > 0 {
		errs = append(errs, fmt.Errorf("%d classes are more than the %d there are: peers that do not fit are judged as unknown", len(e.homeless), len(e.classes.state)))
	}
	if len(e.unnumbered) > 0 {
		errs = append(errs, fmt.Errorf("%d peers are more than the %d there are: they are judged as unknown", len(e.unnumbered), len(e.peers.state)))
	}
	if e.sets.short != nil {
		errs = append(errs, e.sets.short)
	}
	return errs
}

func (e *Engine) stats() Stats {
	s := Stats{Groups: len(e.groups.groups), Slots: len(e.live), Sets: e.sets.numbered, SetRows: e.sets.rows, Selectors: len(e.useByKey)}
	s.Peers = e.peers.count + PeerFirst
	s.Classes = e.classes.count
	return s
}

// putObject enters an object, or a new version of it, or makes its rules anew
// because what they name is other.
func (e *Engine) putObject(o Object) {
	key := o.Key()
	c := e.objects[key]
	if c == nil {
		c = e.inherited[key]
	}
	if c.stale(o, e.refs) {
		next := &cached{object: o, refs: e.refs, parsed: parse(o, &e.opts, e.refs)}
		if next.parsed.err == nil {
			next.good = &next.parsed
		} else if c != nil && c.object.UID == o.UID {
			next.good = c.good
		}
		e.now.objects = e.now.objects || c == nil || c.object != o || !sameRules(c.good, next.good)
		e.now.statuses = true
		c = next
	}
	if e.objects[key] != c {
		e.objects[key] = c
		e.reselect(key, c)
	}
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

func (e *Engine) dropObject(key string) {
	if e.objects[key] != nil {
		delete(e.objects, key)
		e.reselect(key, nil)
		e.now.objects = true
	}
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
