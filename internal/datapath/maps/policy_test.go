// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/policy"
)

// fakeRows is a table in our own memory. before is called ahead of each write.
type fakeRows struct {
	name   string
	rows   map[any]any
	log    *[]string
	before func(key any)
	fail   error
}

func (f *fakeRows) Put(key, value any) error {
	*f.log = append(*f.log, "put "+f.name)
	if f.before != nil {
		f.before(key)
	}
	if f.fail != nil {
		return f.fail
	}
	f.rows[key] = value
	return nil
}

func (f *fakeRows) Delete(key any) error {
	*f.log = append(*f.log, "delete "+f.name)
	if _, ok := f.rows[key]; !ok {
		return ebpf.ErrKeyNotExist
	}
	delete(f.rows, key)
	return nil
}

type fakeKernel struct {
	*Policy
	sets, identities, addresses *fakeRows
	banks                       map[uint32]memory
	log                         []string
}

func newFake() *fakeKernel {
	k := &fakeKernel{banks: map[uint32]memory{}}
	table := func(name string) *fakeRows { return &fakeRows{name: name, rows: map[any]any{}, log: &k.log} }
	k.sets, k.identities, k.addresses = table("sets"), table("identity_peer"), table("ipcache")
	words := func(rows, step int) *memory { return &memory{b: make([]byte, rows*step), stride: step} }
	k.Policy = &Policy{sets: k.sets, identityPeer: k.identities, ipcache: k.addresses,
		peers: words(64, 8), gens: words(1, 2*4*abi.GenerationsMax), endpoints: words(8, 80), keys: map[uint32][]abi.SetKey{},
		bank: func(class uint32) (memory, error) {
			n := class / abi.ClassBank
			if n >= abi.ClassBanks {
				return memory{}, errors.New("too many")
			}
			if _, ok := k.banks[n]; !ok {
				k.banks[n] = *words(abi.ClassBank, 2*abi.SlotsMax)
			}
			return k.banks[n], nil
		},
		grace: func() error { k.log = append(k.log, "grace"); return nil }}
	k.pending.endpoints, k.pending.peers = map[uint32]bool{}, map[uint32]bool{}
	return k
}

func (k *fakeKernel) cell(class uint32, slot uint16) uint16 {
	b, ok := k.banks[class/abi.ClassBank]
	if !ok {
		return 0
	}
	return b.load16(class%abi.ClassBank, uintptr(slot)*2)
}

func (k *fakeKernel) generation(endpoint uint32) uint32 { return k.gens.load32(0, uintptr(endpoint)*4) }

func TestStepsAreCarriedOutInTheirOrder(t *testing.T) {
	k := newFake()
	web := netip.MustParsePrefix("10.0.0.0/8")
	k.sets.before = func(any) {
		if k.cell(7, 3) != 0 {
			t.Error("the cell points to the set before its rows are written")
		}
	}
	k.addresses.before = func(any) {
		if k.peers.load32(9, 0) != 7 || k.identities.rows[uint32(300)] != uint32(9) {
			t.Error("the address is known before its peer has a class")
		}
		if k.cell(7, 3) != 5 {
			t.Error("the address is known before the cell is stored")
		}
		if k.generation(2) != 0 {
			t.Error("the generation is bumped before the change is complete")
		}
	}
	err := k.Apply([]policy.Op{
		policy.WriteSet{Set: 5, Rows: []policy.SetRow{{Protocol: 6, Port: 80, PortBits: 16, Verdict: policy.Allow}}},
		policy.WriteClass{Class: 7},
		policy.SetCell{Class: 7, Slot: 3, Set: 5},
		policy.SetPeer{Peer: 9, Class: 7},
		policy.SetIdentityPeer{Identity: 300, Peer: 9},
		policy.PutAddress{Prefix: web, Entry: policy.Entry{Identity: 300, Peer: 9, Node: 1, Flags: policy.AddressPod}},
		policy.BumpEndpoint{Endpoint: 2},
		policy.Grace{},
		policy.DeleteAddress{Prefix: web},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"put sets", "put identity_peer", "put ipcache", "grace", "delete ipcache"}
	if !slices.Equal(k.log, want) {
		t.Errorf("order %v, want %v", k.log, want)
	}
	if k.generation(2) != 1 {
		t.Errorf("generation of endpoint 2 is %d, want 1", k.generation(2))
	}
}

func TestAChangeStopsAtTheStepThatFails(t *testing.T) {
	k := newFake()
	k.addresses.fail = errors.New("no memory")
	err := k.Apply([]policy.Op{
		policy.SetPeer{Peer: 1, Class: 4},
		policy.PutAddress{Prefix: netip.MustParsePrefix("fd00::/8")},
		policy.SetPeer{Peer: 2, Class: 4},
	})
	var step *StepError
	if !errors.As(err, &step) || step.Index != 1 || !errors.Is(err, k.addresses.fail) {
		t.Fatalf("error %v does not name step 1", err)
	}
	if k.peers.load32(1, 0) != 4 || k.peers.load32(2, 0) != 0 {
		t.Error("steps before the failed one must stand, later ones not be tried")
	}
}

func TestOutOfRangeStepsAreRefused(t *testing.T) {
	for _, op := range []policy.Op{
		policy.SetPeer{Peer: 64}, policy.SetCell{Slot: 512}, policy.SetEndpoint{Endpoint: 8}, policy.BumpEndpoint{Endpoint: 4096},
		policy.WriteSet{Set: policy.SetAllow}, policy.WriteClass{Class: abi.ClassBank * abi.ClassBanks},
	} {
		if err := newFake().Apply([]policy.Op{op}); err == nil {
			t.Errorf("%#v is carried out", op)
		}
	}
}

func TestACellChangesWithoutItsNeighbours(t *testing.T) {
	k := newFake()
	var row [512]uint16
	for i := range row {
		row[i] = uint16(i + 100)
	}
	if err := k.Apply([]policy.Op{policy.WriteClass{Class: 1500, Row: row}, policy.SetCell{Class: 1500, Slot: 6, Set: 1}, policy.SetCell{Class: 1500, Slot: 9, Set: 2}}); err != nil {
		t.Fatal(err)
	}
	row[6], row[9] = 1, 2
	for slot := range row {
		if got := k.cell(1500, uint16(slot)); got != row[slot] {
			t.Errorf("slot %d holds %d, want %d", slot, got, row[slot])
		}
	}
}

func TestBothSlotsOfAnEndpointAreOneWord(t *testing.T) {
	k := newFake()
	if err := k.Apply([]policy.Op{policy.SetEndpoint{Endpoint: 3, Row: policy.EndpointRow{Identity: 1234, Peer4: 5, Peer6: 6, Egress: 7, Ingress: 8}}}); err != nil {
		t.Fatal(err)
	}
	if got := k.endpoints.load32(3, endpointSlots); got != 7|8<<16 {
		t.Errorf("slots %#x, want egress in the low half and ingress in the high one", got)
	}
	if k.endpoints.load32(3, endpointIdentity) != 1234 || k.endpoints.load32(3, endpointPeer4) != 5 || k.endpoints.load32(3, endpointPeer6) != 6 {
		t.Error("identity or peers are missing")
	}
}

func TestARewrittenSetKeepsNoRowOfItsFormerSelf(t *testing.T) {
	k := newFake()
	rows := func(ports ...uint16) (out []policy.SetRow) {
		for i, p := range ports {
			out = append(out, policy.SetRow{Protocol: 17, Port: p, PortBits: 16, Verdict: policy.Allow, Row: uint16(i)})
		}
		return out
	}
	if err := k.Apply([]policy.Op{policy.WriteSet{Set: 9, Rows: rows(53, 123)}, policy.WriteSet{Set: 9, Rows: rows(123, 500)}}); err != nil {
		t.Fatal(err)
	}
	if len(k.sets.rows) != 2 {
		t.Errorf("%d rows, want those of ports 123 and 500", len(k.sets.rows))
	}
	if err := k.Apply([]policy.Op{policy.DeleteSet{Set: 9}}); err != nil {
		t.Fatal(err)
	}
	if len(k.sets.rows) != 0 {
		t.Errorf("%d rows are left of a deleted set", len(k.sets.rows))
	}
}

func TestSetRowsSurviveTheirKeys(t *testing.T) {
	for _, r := range []policy.SetRow{
		{Verdict: policy.Allow},
		{Protocol: 6, Verdict: policy.Deny, Row: 2},
		{Protocol: 6, Port: 8080, PortBits: 16, Verdict: policy.Redirect, L7: 4, Row: 7},
		{Protocol: 132, Port: 0x8000, PortBits: 1, Verdict: policy.Allow},
		{Protocol: 58, Port: 128, PortBits: 16, Verdict: policy.Allow},
	} {
		k := setKeyOf(77, r)
		e := abi.SetEntry{Verdict: uint8(r.Verdict), L7: r.L7, Row: r.Row}
		if back := setRowOf(k, e); back != r {
			t.Errorf("%+v became %+v", r, back)
		}
	}
	for bits, want := range map[uint8]uint32{0: abi.PrefixProtocol, 16: abi.PrefixPort, 3: abi.PrefixProtocol + 3} {
		if got := setKeyOf(1, policy.SetRow{Protocol: 6, PortBits: bits}).Prefixlen; got != want {
			t.Errorf("prefix of %d port bits is %d, want %d", bits, got, want)
		}
	}
}

func TestAddressesSurviveTheirKeys(t *testing.T) {
	for _, p := range []string{"0.0.0.0/0", "10.1.2.0/24", "10.1.2.3/32", "::/0", "fd00::/8", "fd00::1/128"} {
		want := netip.MustParsePrefix(p)
		if got := prefixOf(lpmKey(want)); got != want {
			t.Errorf("%s became %s", want, got)
		}
	}
	if lpmKey(netip.MustParsePrefix("10.0.0.0/8")).Prefixlen != 104 {
		t.Error("an IPv4 prefix must be 96 bits longer in the kernel")
	}
}

func TestSettlingBumpsOnceMoreAfterAGracePeriod(t *testing.T) {
	k := newFake()
	a := netip.MustParseAddr("10.0.0.1")
	if err := k.Apply([]policy.Op{policy.BumpEndpoint{Endpoint: 5}, policy.BumpPeer{Addr: a}}); err != nil {
		t.Fatal(err)
	}
	shard := abi.PeerShard(mapped(a))
	peer := func() uint32 { return k.gens.load32(0, uintptr(abi.GenerationsMax+shard)*4) }
	if k.generation(5) != 1 || peer() != 1 {
		t.Fatalf("generations %d and %d after the change, want 1", k.generation(5), peer())
	}
	if did, err := k.Settle(); !did || err != nil {
		t.Fatal(did, err)
	}
	if k.generation(5) != 2 || peer() != 2 || !slices.Equal(k.log, []string{"grace"}) {
		t.Errorf("generations %d and %d, log %v; want 2 after a grace period", k.generation(5), peer(), k.log)
	}
	if did, _ := k.Settle(); did {
		t.Error("nothing is left to settle, yet it waited again")
	}
}

func TestBumpingEverybodyChangesEveryShard(t *testing.T) {
	k := newFake()
	if err := k.Apply([]policy.Op{policy.BumpPeers{}}); err != nil {
		t.Fatal(err)
	}
	for i := range uintptr(abi.GenerationsMax) {
		if k.gens.load32(0, (abi.GenerationsMax+i)*4) != 1 || k.gens.load32(0, i*4) != 0 {
			t.Fatalf("shard %d not bumped, or an endpoint bumped", i)
		}
	}
}

func ExampleStepError() {
	k := newFake()
	fmt.Println(k.Apply([]policy.Op{policy.WriteClass{Class: 1}, policy.SetPeer{Peer: 99, Class: 1}}))
	// Output: step 1 (policy.SetPeer {Peer:99 Class:1}): only 64 peers are possible
}

func TestRowsOfASetThatCouldNotBeWrittenWholeAreNotInherited(t *testing.T) {
	k := newFake()
	full := errors.New("no space left")
	k.sets.before = func(any) {
		if len(k.sets.rows) == 1 {
			k.sets.fail = full
		}
	}
	port := func(n uint16, v policy.Verdict) policy.SetRow {
		return policy.SetRow{Protocol: 6, Port: n, PortBits: 16, Verdict: v, Row: n}
	}
	err := k.Apply([]policy.Op{policy.WriteSet{Set: 5, Rows: []policy.SetRow{port(80, policy.Allow), port(81, policy.Allow)}}})
	if !errors.Is(err, full) {
		t.Fatalf("got %v, want %v", err, full)
	}
	k.sets.before, k.sets.fail = nil, nil
	if err := k.Apply([]policy.Op{policy.WriteSet{Set: 5, Rows: []policy.SetRow{port(443, policy.Allow)}}}); err != nil {
		t.Fatal(err)
	}
	if len(k.sets.rows) != 1 {
		t.Errorf("the next set of the number has rows of the one before: %v", k.sets.rows)
	}
}
