// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/load"
	"github.com/stentor-net/stentor/internal/datapath/maps"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/testkit/corpus"
)

// Every n-th case of a part goes through the datapath; 1 is all of them.
const sampleEnv = "STENTOR_CORPUS_SAMPLE"

func sample(t *testing.T, otherwise int) int {
	text := os.Getenv(sampleEnv)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number from 1 on", sampleEnv, text)
	}
	return n
}

// judgeNode is a node whose maps the engine's steps are carried out in.
type judgeNode struct {
	*node
	set         *maps.Set
	dir         string // of the pinned maps
	engine      *policy.Engine
	incarnation uint32
	present     map[uint16]bool
	rows        map[uint16]policy.EndpointRow

	current *corpus.Case
	frame   []byte
	sport   uint16
	sent    map[uint16]probe // by source port
	stats
}

// probe is a packet on its way, with what must become of it.
type probe struct {
	what     string
	want     byte
	endpoint uint16 // whose policy judges
	ingress  bool
	shot     bool
	icmp     bool // its event does not name it: it is alone on its way
}

type stats struct {
	cases, verdicts, packets, wrong, deviations, left int
	took                                              time.Duration
}

func (s *stats) String() string {
	return fmt.Sprintf("cases %d, verdicts %d, packets %d, differences %d, named deviations %d, not to be sent %d; %d ms, %.1f us a packet",
		s.cases, s.verdicts, s.packets, s.wrong, s.deviations, s.left, s.took.Milliseconds(), float64(s.took.Microseconds())/float64(max(1, s.packets)))
}

func newJudgeNode(t *testing.T) *judgeNode {
	t.Helper()
	requireRoot(t)
	devices(t)
	specs, err := load.Parse()
	if err != nil {
		t.Fatal(err)
	}
	all := specs.Maps()
	for name, size := range small {
		if all[name] != nil {
			all[name].MaxEntries = size
		}
	}
	dir := filepath.Join(nstest.BPFDir(t), "node")
	set, err := maps.Open(dir, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	reader, err := ringbuf.NewReader(set.Map(abi.MapEvents))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	j := &judgeNode{set: set, dir: dir, present: map[uint16]bool{}, sent: map[uint16]probe{}, frame: make([]byte, 128)}
	// Only drops are told: what passes, the verdict of the program says.
	j.node = &node{TB: t, maps: set.Maps(), progs: map[string]*ebpf.Program{}, cfg: config{abi.ConfigEventLevel: uint8(0)}, ring: reader, adapt: maps.Adapt}
	return j
}

// begin makes another engine over what the node holds: the change from one case
// to the next is a change like any other.
func (j *judgeNode) begin(c *corpus.Case) {
	j.Helper()
	state := policy.NewState()
	if j.engine != nil {
		state = *j.engine.State()
	}
	e, err := policy.New(c.Options, state)
	if err != nil {
		j.Fatal(err)
	}
	j.engine, j.current = e, c
	j.incarnation++
}

// apply carries out a situation as an agent does: interfaces, policy, readiness.
func (j *judgeNode) apply(s *corpus.Situation) {
	j.Helper()
	wanted := map[uint16]bool{}
	for i := range s.Input.Subjects {
		p := &s.Input.Subjects[i]
		p.Incarnation = j.incarnation
		wanted[p.Endpoint], j.present[p.Endpoint] = true, true
		e := maps.Endpoint{ID: p.Endpoint, Incarnation: p.Incarnation, IfIndex: int(deviceIndex[devPod1]), MAC: client.mac, NodeMAC: client.nodeMAC}
		if p.IPv4.Prefix.IsValid() {
			e.IPv4 = p.IPv4.Prefix.Addr()
		}
		if p.IPv6.Prefix.IsValid() {
			e.IPv6 = p.IPv6.Prefix.Addr()
		}
		if err := j.set.PutEndpoint(e); err != nil {
			j.Fatal(err)
		}
	}
	out := j.engine.Update(s.Input)
	if out.Err != nil {
		j.Error(out.Err)
	}
	var ops []policy.Op
	for _, op := range out.Ops {
		if _, waits := op.(policy.Grace); !waits { // no program runs meanwhile
			ops = append(ops, op)
		}
	}
	if err := j.set.Policy().Apply(ops); err != nil {
		j.Fatal(err)
	}
	j.rows = map[uint16]policy.EndpointRow{}
	for id, o := range out.Endpoints {
		j.rows[id] = o.Row
	}
	for id := range j.present {
		var err error
		if wanted[id] {
			err = j.set.EnableEndpoint(id)
		} else {
			err = j.set.RemoveEndpoint(id)
			delete(j.present, id)
		}
		if err != nil {
			j.Fatal(err)
		}
	}
}

// openSide takes the policy of one direction off all endpoints, so that the
// other one alone decides.
func (j *judgeNode) openSide(egress, ingress bool) {
	j.Helper()
	var ops []policy.Op
	for id, row := range j.rows {
		if egress {
			row.Egress = policy.SlotOpen
		}
		if ingress {
			row.Ingress = policy.SlotOpen
		}
		ops = append(ops, policy.SetEndpoint{Endpoint: id, Row: row}, policy.BumpEndpoint{Endpoint: id})
	}
	if err := j.set.Policy().Apply(ops); err != nil {
		j.Fatal(err)
	}
}

// check sends a packet for every verdict of a situation: those of one direction
// with the other one open, and both together as they are.
func (j *judgeNode) check(s *corpus.Situation) {
	j.Helper()
	for _, pass := range []struct {
		name            string
		egress, ingress bool // opened
		want            func(corpus.Connection) byte
	}{
		{"egress", false, true, func(k corpus.Connection) byte { return k.Egress }},
		{"ingress", true, false, func(k corpus.Connection) byte { return k.Ingress }},
		{"both", false, false, func(k corpus.Connection) byte { return k.Combined }},
	} {
		opened := false
		for _, k := range s.Connections {
			want := pass.want(k)
			if want == 0 {
				continue
			}
			if !opened {
				j.openSide(pass.egress, pass.ingress)
				opened = true
			}
			j.verdicts++
			from, to := s.Ends[k.From], s.Ends[k.To]
			p := probe{want: want, endpoint: from.Endpoint, ingress: pass.name == "ingress"}
			if p.ingress {
				p.endpoint = to.Endpoint
			}
			if pass.name == "both" {
				p.endpoint = 0 // either
			}
			if from.Endpoint == to.Endpoint { // a pod always reaches itself
				j.left++
				continue
			}
			if !j.send(from, to, k, p, func() string {
				return fmt.Sprintf("%s: %s from %s to %s, protocol %d port %d", j.current.Name, pass.name, from.Name, to.Name, k.Protocol, k.Port)
			}) {
				j.left++
			}
		}
		j.collect()
	}
}

// Source ports of the probes: none is a port that policies speak of.
const (
	firstPort = 20000
	lastPort  = 60000
	batch     = 2048 // packets until the events are read
)

// send runs a packet through the program that it meets first on this node; false
// if there can be no such packet.
func (j *judgeNode) send(from, to corpus.End, k corpus.Connection, p probe, what func() string) bool {
	j.Helper()
	if !from.Addr.IsValid() || !to.Addr.IsValid() || from.Addr.Is4() != to.Addr.Is4() || k.Protocol == 1 && from.Addr.Is6() {
		return false
	}
	if p.icmp = k.Protocol == 1; p.icmp {
		j.collect()
	}
	if j.sport++; j.sport < firstPort || j.sport > lastPort {
		j.sport = firstPort
	}
	program := "from_pod"
	if from.Endpoint == 0 {
		program = "to_pod" // through the stack of the host
	}
	frame := j.build(from.Addr, to.Addr, k, j.sport)
	verdict, err := j.prog(program).Run(&ebpf.RunOptions{Data: frame, Context: skb{Ifindex: deviceIndex[devPod1]}})
	if err != nil {
		j.Fatalf("run %s: %v", program, err)
	}
	j.packets++
	p.shot = verdict == actShot
	if p.what = ""; !p.shot && p.want == corpus.Allowed {
		return true // as it must be
	}
	p.what = what()
	j.sent[j.sport] = p
	if p.icmp || len(j.sent) >= batch {
		j.collect()
	}
	return true
}

// build writes a first packet: Ethernet, IP and the ports.
func (j *judgeNode) build(from, to netip.Addr, k corpus.Connection, sport uint16) []byte {
	b := j.frame[:0]
	b = append(b, client.nodeMAC[:]...)
	b = append(b, client.mac[:]...)
	l4 := 20
	switch k.Protocol {
	case 17, 1:
		l4 = 8
	case 132:
		l4 = 12
	}
	if from.Is4() {
		b = append(b, 8, 0, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+l4))
		b = append(b, 0, 0, 0, 0, 64, k.Protocol, 0, 0)
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(l4))
		b = append(b, k.Protocol, 64)
	}
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	at := len(b)
	b = append(b, make([]byte, l4)...)
	switch k.Protocol {
	case 1:
		b[at] = byte(k.Port)
		binary.BigEndian.PutUint16(b[at+4:], sport) // the identifier
		return b
	case 6:
		b[at+12], b[at+13] = 5<<4, 2 // SYN
	case 17:
		binary.BigEndian.PutUint16(b[at+4:], uint16(l4))
	}
	binary.BigEndian.PutUint16(b[at:], sport)
	binary.BigEndian.PutUint16(b[at+2:], uint16(k.Port))
	return b
}

// collect reads why packets were dropped, and compares.
func (j *judgeNode) collect() {
	j.Helper()
	if len(j.sent) == 0 {
		return
	}
	why := map[uint16]abi.Event{}
	var last abi.Event
	for _, e := range j.readEvents() {
		if e.Type == abi.EventDrop {
			why[ports(e.SourcePort)], last = e, e
		}
	}
	for port, p := range j.sent {
		got, e := byte(corpus.Allowed), why[port]
		if p.icmp {
			e = last
		}
		if p.shot {
			got = j.letter(e)
		}
		if got == p.want && (!p.shot || p.endpoint == 0 || e.Endpoint == p.endpoint && (e.Ingress == 1) == p.ingress) {
			continue
		}
		if corpus.Deviates(j.current.Name) && got == corpus.Allowed {
			j.deviations++
			continue
		}
		if j.wrong++; j.wrong <= 20 {
			j.Errorf("%s: want %c, got %c (dropped %t for %s at endpoint %d, ingress %d, set %d row %d)", p.what, p.want, got, p.shot, name(e.Reason), e.Endpoint, e.Ingress, e.Set, e.Row)
		}
	}
	clear(j.sent)
}

// letter says what a drop was: a denial, or a redirect, which no proxy takes here.
func (j *judgeNode) letter(e abi.Event) byte {
	if e.Reason == abi.ReasonProxyNotRunning {
		return corpus.Redirected
	}
	if e.Reason != abi.ReasonPolicyDenied && e.Reason != abi.ReasonPolicyDeniedExplicit && e.Reason != abi.ReasonIdentityUnknown {
		return '?'
	}
	return corpus.Denied
}

func throughTheDatapath(t *testing.T, part string, otherwise int, read func(file string, family int) (corpus.Case, error)) {
	files, err := corpus.Files(part)
	if errors.Is(err, corpus.ErrNone) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	files = corpus.Sample(files, sample(t, otherwise))
	for _, family := range []int{4, 6} {
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) {
			j := newJudgeNode(t)
			for _, file := range files {
				c, err := read(file, family)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				j.cases++
				j.begin(&c)
				for i := range c.Situations {
					j.apply(&c.Situations[i])
					j.check(&c.Situations[i])
				}
				j.took += time.Since(start)
			}
			t.Logf("%s, IPv%d, through the datapath: %v", part, family, &j.stats)
			if j.wrong > 0 {
				t.Errorf("%d differences", j.wrong)
			}
		})
	}
}

func TestTheDatapathGivesTheVerdictsOfCyclonus(t *testing.T) {
	throughTheDatapath(t, "cyclonus/cases", 1, corpus.Cyclonus)
}

func TestTheDatapathGivesTheVerdictsOfRandomPolicies(t *testing.T) {
	throughTheDatapath(t, "random", 20, corpus.Matrix)
}

func TestTheDatapathGivesTheVerdictsOfPublishedPolicies(t *testing.T) {
	throughTheDatapath(t, "real", 20, corpus.Matrix)
}
