// SPDX-License-Identifier: Apache-2.0

package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/bpf"
)

const inNamespace = "STENTOR_BPF_TEST_NETNS"

// TestMain repeats itself in a network namespace of its own, which ends with it.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inNamespace) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to load BPF programs")
	}
}

// Devices of every node; they exist once in the namespace of the tests.
const (
	devHost = iota
	devPod1
	devPod2
	devUplink
	devOverlay
	devCount
)

var deviceIndex [devCount]uint32

// devices makes the links whose indices the programs compare. Their kind does not matter.
func devices(t testing.TB) {
	t.Helper()
	if deviceIndex[0] != 0 {
		return
	}
	for i := range deviceIndex {
		name := fmt.Sprintf("st-bpf-%d", i)
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		link := &netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"}
		if err := netlink.LinkAdd(link); err != nil && !errors.Is(err, os.ErrExist) { // processes of a fuzz run share them
			t.Fatalf("add link %s: %v", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatalf("set link %s up: %v", name, err)
		}
		found, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		deviceIndex[i] = uint32(found.Attrs().Index)
	}
}

// config are settings of .rodata that differ from the defaults of a test node.
type config map[string]any

type node struct {
	testing.TB
	maps     map[string]*ebpf.Map
	progs    map[string]*ebpf.Program
	ring     *ringbuf.Reader
	bank     *ebpf.Map
	cfg      config
	first    uint32 // next free backend
	services uint32 // made by serve
	spy      bool
	adapt    func(map[string]*ebpf.MapSpec) // of specs to maps that others made. Optional
}

var loaders = map[string]func() (*ebpf.CollectionSpec, error){
	"endpoint": bpf.LoadEndpoint, "overlay": bpf.LoadOverlay, "net": bpf.LoadNet, "sock": bpf.LoadSock,
}

// sizes of maps that need not be as large as in a cluster, and of one that an
// agent makes larger for the first Maglev table.
var sizes = map[string]uint32{
	abi.MapFlows: 4096, abi.MapFragments: 256, abi.MapNAT: 4096, abi.MapServiceFlows: 1024, abi.MapSocketVIPs: 1024,
	abi.MapIpcache: 4096, abi.MapEvents: 1 << 20, abi.MapMaglevRows: 4096,
}

// newNode makes one set of maps; programs are loaded with the settings when they first run.
func newNode(t testing.TB, cfg config) *node { return makeNode(t, cfg, true) }

func makeNode(t testing.TB, cfg config, spy bool) *node {
	t.Helper()
	requireRoot(t)
	devices(t)
	n := &node{TB: t, maps: map[string]*ebpf.Map{}, progs: map[string]*ebpf.Program{}, cfg: cfg, spy: spy}
	for object := range loaders {
		for name, m := range n.spec(object).Maps {
			if n.maps[name] != nil || strings.HasPrefix(name, ".") {
				continue
			}
			made, err := ebpf.NewMap(m)
			if err != nil {
				t.Fatalf("create map %s: %v", name, err)
			}
			t.Cleanup(func() { made.Close() })
			n.maps[name] = made
		}
	}
	n.addBank()
	reader, err := ringbuf.NewReader(n.maps[abi.MapEvents])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	n.ring = reader
	return n
}

func defaults() config {
	return config{
		abi.ConfigOverlayIfindex: deviceIndex[devOverlay], abi.ConfigUplinkIfindex: deviceIndex[devUplink],
		abi.ConfigHostIfindex: deviceIndex[devHost], abi.ConfigNodeIndex: uint16(1), abi.ConfigMTU: uint32(1450),
	}
}

// spec returns an object with the node's settings.
func (n *node) spec(object string) *ebpf.CollectionSpec {
	n.Helper()
	spec, err := loaders[object]()
	if err != nil {
		n.Fatal(err)
	}
	if n.spy {
		addSpy(spec)
	} else {
		spec.Maps["spy"] = spyMap()
	}
	for _, c := range []config{defaults(), n.cfg} {
		for k, v := range c {
			if spec.Variables[k] == nil {
				continue
			}
			if err := spec.Variables[k].Set(v); err != nil {
				n.Fatalf("set %s: %v", k, err)
			}
		}
	}
	if n.adapt != nil {
		n.adapt(spec.Maps)
	}
	for m, size := range sizes {
		if spec.Maps[m] != nil {
			spec.Maps[m].MaxEntries = size
		}
	}
	return spec
}

// object of each program.
var objectOf = map[string]string{
	"from_pod": "endpoint", "to_pod": "endpoint", "from_overlay": "overlay", "to_overlay": "overlay", "from_net": "net", "to_net": "net",
}

// prog returns a program, loaded.
func (n *node) prog(name string) *ebpf.Program {
	n.Helper()
	if p := n.progs[name]; p != nil {
		return p
	}
	object := objectOf[name]
	if object == "" {
		object = "sock"
	}
	spec := n.spec(object)
	shared := map[string]*ebpf.Map{}
	for m := range spec.Maps {
		if n.maps[m] != nil {
			shared[m] = n.maps[m]
		}
	}
	for p := range spec.Programs {
		if p != name {
			delete(spec.Programs, p)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		n.Fatalf("load %s: %v", name, verifier(err))
	}
	n.Cleanup(coll.Close)
	n.progs[name] = coll.Programs[name]
	return n.progs[name]
}

// verifier shortens the log of the verifier to its end.
func verifier(err error) error {
	var v *ebpf.VerifierError
	if !errors.As(err, &v) {
		return err
	}
	log := v.Log
	if len(log) > 20 {
		log = log[len(log)-20:]
	}
	return fmt.Errorf("%w\n%s", err, strings.Join(log, "\n"))
}

func (n *node) addBank() {
	n.Helper()
	bank, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 2 * abi.SlotsMax, MaxEntries: abi.ClassBank, Flags: 1 << 10})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { bank.Close() })
	n.bank = bank
	n.put(abi.MapClasses, uint32(0), bank)
}

func (n *node) put(name string, key, value any) {
	n.Helper()
	if err := n.maps[name].Put(key, value); err != nil {
		n.Fatalf("put into %s: %v", name, err)
	}
}

func mapped(s string) abi.Addr { return abi.Addr{B: netip.MustParseAddr(s).As16()} }

func ports(p uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(p >> 8), byte(p)}) }

// pod is an endpoint of a node under test.
type pod struct {
	id, device   int
	identity     uint32
	peer         uint32
	ip4, ip6     string
	egress, ingr uint16 // slots
	incarnation  uint32
	mac, nodeMAC [6]byte
	notReady     bool
}

func (p pod) row() abi.Endpoint {
	e := abi.Endpoint{Ifindex: deviceIndex[p.device], Incarnation: p.incarnation, Identity: p.identity, Peer4: p.peer, Peer6: p.peer,
		Slots: uint32(p.egress) | uint32(p.ingr)<<16, Flags: abi.EndpointReady, MAC: p.mac, NodeMAC: p.nodeMAC, IP4: mapped(p.ip4), IP6: mapped(p.ip6)}
	if p.notReady {
		e.Flags = 0
	}
	return e
}

func (n *node) addPod(p pod) {
	n.Helper()
	n.put(abi.MapEndpoints, uint32(p.id), p.row())
	for _, ip := range []string{p.ip4, p.ip6} {
		n.put(abi.MapEndpointAddrs, mapped(ip), uint32(p.id))
		n.addPrefix(ip, abi.IpcacheEntry{Identity: p.identity, Peer: p.peer, Node: 1, Flags: abi.IpcachePod})
	}
	n.put(abi.MapIdentityPeer, p.identity, p.peer)
}

func (n *node) addPrefix(s string, e abi.IpcacheEntry) {
	n.Helper()
	if !strings.Contains(s, "/") {
		s = fmt.Sprintf("%s/%d", s, netip.MustParseAddr(s).BitLen())
	}
	prefix := netip.MustParsePrefix(s)
	bits := prefix.Bits()
	if prefix.Addr().Is4() {
		bits += 96
	}
	n.put(abi.MapIpcache, abi.IpcacheKey{Prefixlen: uint32(bits), Addr: prefix.Addr().As16()}, e)
}

func (n *node) addNode(index uint16, underlay string) {
	n.Helper()
	row := abi.Node{Underlay: mapped(underlay), Flags: abi.NodeUsed}
	if netip.MustParseAddr(underlay).Is6() {
		row.Flags |= abi.NodeUnderlay6
	}
	n.put(abi.MapNodes, uint32(index), row)
	n.put(abi.MapNodeAddrs, mapped(underlay), uint32(index))
}

// class gives a peer a class, whose cells are by slot; slots not named deny.
func (n *node) class(peer, class uint32, cells map[uint16]uint16) {
	n.Helper()
	var row abi.ClassRow
	for slot, set := range cells {
		row.Set[slot] = set
	}
	if err := n.bank.Put(class, row); err != nil {
		n.Fatal(err)
	}
	n.put(abi.MapPeers, peer, class)
}

func (n *node) bumpEndpoint(id int) {
	n.Helper()
	n.changeGenerations(func(g *abi.Generations) { g.Endpoint[id]++ })
}

func (n *node) bumpPeer(ip string) {
	n.Helper()
	n.changeGenerations(func(g *abi.Generations) { g.Peer[abi.PeerShard(mapped(ip))]++ })
}

func (n *node) changeGenerations(change func(*abi.Generations)) {
	n.Helper()
	g := new(abi.Generations)
	if err := n.maps[abi.MapPolicyGens].Lookup(uint32(0), g); err != nil {
		n.Fatal(err)
	}
	change(g)
	n.put(abi.MapPolicyGens, uint32(0), g)
}

// skb is struct __sk_buff as far as a test run takes and gives it.
type skb struct {
	Len, PktType, Mark, QueueMapping, Protocol, VlanPresent, VlanTci, VlanProto, Priority uint32
	IngressIfindex, Ifindex, TcIndex                                                      uint32
	CB                                                                                    [5]uint32
	Hash, TcClassid, Data, DataEnd, NapiID                                                uint32
	Sock                                                                                  [12]uint32
	DataMeta, Pad                                                                         uint32
	FlowKeys, Tstamp                                                                      uint64
	WireLen, GsoSegs                                                                      uint32
	SK                                                                                    uint64
	GsoSize, TstampType                                                                   uint32
	Hwtstamp                                                                              uint64
}

const (
	actOK       = 0
	actShot     = 2
	actRedirect = 7
)

// result is what a program did with a packet.
type result struct {
	verdict uint32
	out     []byte
	mark    uint32
	spy     spyRow
	events  []abi.Event
	reason  uint8 // of the drop
}

// from is where a packet enters.
type from struct {
	device  int
	mark    uint32
	vni     uint32 // overlay
	outer   string // overlay: source of the outer header
	gsoSize uint32
	route   int // device that the route lookup finds; 0: none
}

func (n *node) run(prog string, packet []byte, in from) result {
	n.Helper()
	r, err := n.tryRun(prog, packet, in)
	if err != nil {
		n.Fatalf("run %s: %v", prog, err)
	}
	return r
}

// tryRun is run for packets that the kernel may refuse to make.
func (n *node) tryRun(prog string, packet []byte, in from) (result, error) {
	n.Helper()
	row := spyRow{InVNI: in.vni, InFib: deviceIndexOrZero(in.route)}
	if in.outer != "" {
		a := netip.MustParseAddr(in.outer)
		if a.Is4() {
			row.InRemote[0] = binary.BigEndian.Uint32(a.AsSlice())
		} else {
			row.InSix = 1
			for i := range row.InRemote {
				row.InRemote[i] = binary.NativeEndian.Uint32(a.AsSlice()[4*i:])
			}
		}
	}
	n.put("spy", uint32(0), row)
	ctx := skb{Ifindex: deviceIndex[in.device], Mark: in.mark, GsoSize: in.gsoSize}
	var ctxOut skb
	out := make([]byte, len(packet)+256)
	opts := ebpf.RunOptions{Data: packet, DataOut: out, Context: ctx, ContextOut: &ctxOut}
	verdict, err := n.prog(prog).Run(&opts)
	if err != nil {
		return result{}, err
	}
	r := result{verdict: verdict, out: opts.DataOut, mark: ctxOut.Mark, events: n.readEvents()}
	if err := n.maps["spy"].Lookup(uint32(0), &r.spy); err != nil {
		n.Fatal(err)
	}
	for _, e := range r.events {
		if e.Type == abi.EventDrop {
			r.reason = e.Reason
		}
	}
	return r, nil
}

func deviceIndexOrZero(device int) uint32 {
	if device == 0 {
		return 0
	}
	return deviceIndex[device]
}

// readEvents empties the ring.
func (n *node) readEvents() []abi.Event {
	n.Helper()
	var out []abi.Event
	n.ring.SetDeadline(time.Unix(0, 1)) // what is there, without waiting
	for {
		record, err := n.ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return out
		}
		if err != nil {
			n.Fatal(err)
		}
		var e abi.Event
		if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &e); err != nil {
			n.Fatal(err)
		}
		out = append(out, e)
	}
}

// dropped returns how many packets the counters say were dropped for a reason.
func (n *node) dropped(reason uint8, ingress int) uint64 {
	n.Helper()
	var perCPU []abi.Metric
	if err := n.maps[abi.MapMetrics].Lookup(uint32(reason)*2+uint32(ingress), &perCPU); err != nil {
		n.Fatal(err)
	}
	var sum uint64
	for _, m := range perCPU {
		sum += m.Packets
	}
	return sum
}

// flowRows returns all rows of `flows`.
func (n *node) flowRows() map[abi.FlowKey]abi.Flow {
	n.Helper()
	rows := map[abi.FlowKey]abi.Flow{}
	var key abi.FlowKey
	var row abi.Flow
	it := n.maps[abi.MapFlows].Iterate()
	for it.Next(&key, &row) {
		rows[key] = row
	}
	if err := it.Err(); err != nil {
		n.Fatal(err)
	}
	return rows
}
