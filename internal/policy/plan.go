// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/identity"
)

// Limits of the tables in the kernel, and the numbers that mean something there.
const (
	SlotOpen   = abi.SlotOpen // slot without policy
	SlotClosed = SlotsMax - 1 // slot for endpoints that there is no slot for: never written, so every cell is SetDeny
	SlotsMax   = abi.SlotsMax
	SetsMax    = 65536 // a cell is a u16
	PeersMax   = abi.PeersMax
	ClassMax   = abi.ClassBank * abi.ClassBanks
	SetRowMax  = 65536

	PeerUnknown    = 0 // always of ClassUnknown
	PeerUnresolved = 1 // always of ClassUnresolved
	PeerFirst      = 2

	ClassUnknown    = abi.ClassUnknown
	ClassUnresolved = abi.ClassUnresolved
	ClassFirst      = abi.ClassFirst

	SetDeny  = abi.SetDeny
	SetAllow = abi.SetAllow
	SetFirst = abi.SetFirst
)

// Verdict of a set row.
type Verdict uint8

// Verdicts.
const (
	Deny     Verdict = abi.VerdictDeny
	Allow    Verdict = abi.VerdictAllow
	Redirect Verdict = abi.VerdictRedirect
	Audit    Verdict = abi.VerdictAudit // passes, and is told as what would be denied
)

// Direction is seen from the pod: Egress is from it, Ingress to it.
type Direction uint8

// Directions.
const (
	Egress  Direction = 0
	Ingress Direction = 1
)

// SetRow is one row of a set: the answer for a protocol and a port prefix.
type SetRow struct {
	Protocol uint8  // 0: every protocol
	Port     uint16 // host byte order, first port of the prefix; ICMP: type
	PortBits uint8  // significant bits of Port: 0 every port, 16 exactly this
	Verdict  Verdict
	Row      uint16 // number within the set, reported by the kernel
	L7       uint32 // of a redirect: number of the L7 rules
}

// Address flags.
const (
	AddressHost         uint16 = abi.IpcacheHost
	AddressNode         uint16 = abi.IpcacheNode
	AddressPod          uint16 = abi.IpcachePod
	AddressLocalPods    uint16 = abi.IpcacheLocalPods
	AddressRemotePods   uint16 = abi.IpcacheRemotePods
	AddressTunnel       uint16 = abi.IpcacheTunnel
	AddressClusterRoute uint16 = abi.IpcacheClusterRoute
)

// Address says who is behind a prefix, and where. Identity and place come in;
// the engine gives the peer.
type Address struct {
	Prefix   netip.Prefix
	Identity identity.ID
	Node     uint16 // index in the kernel's table of nodes; 0: none
	Flags    uint16 // Address*
}

// Entry is a row of the kernel's ipcache.
type Entry struct {
	Identity identity.ID
	Peer     uint32
	Node     uint16
	Flags    uint16
}

// EndpointRow is what policy decides about an endpoint's row in the kernel.
type EndpointRow struct {
	Identity     identity.ID
	Peer4, Peer6 uint32
	Egress       uint16 // slot
	Ingress      uint16 // slot
}

// State is the content of the kernel's policy tables. The engine keeps the
// state it wants; after a restart it starts from the state it finds, so that
// numbers that still fit are kept and the difference is an ordinary change.
type State struct {
	Peers        map[uint32]uint32       // peer -> class; absent: class 0
	Classes      map[uint32]*[512]uint16 // class -> set by slot
	Sets         map[uint32][]SetRow
	IdentityPeer map[identity.ID]uint32
	Addresses    map[netip.Prefix]Entry
	Endpoints    map[uint16]EndpointRow
}

// Op is one step of a change of the kernel's tables. Steps are carried out in
// order. Each is neutral (the same verdict for every packet) or one store.
type Op interface{ op() }

// The steps.
type (
	// WriteClass stores the row of a class that no peer points to yet.
	WriteClass struct {
		Class uint32
		Row   [512]uint16
	}
	// WriteSet stores the rows of a set that no cell points to yet.
	WriteSet struct {
		Set  uint32
		Rows []SetRow
	}
	// DeleteSet removes a set that no cell points to since a grace period.
	DeleteSet struct{ Set uint32 }
	// SetPeer moves a peer to a class: one u32 store.
	SetPeer struct{ Peer, Class uint32 }
	// SetCell changes one cell: one u16 store.
	SetCell struct {
		Class uint32
		Slot  uint16
		Set   uint16
	}
	// SetIdentityPeer says which peer stands for the identity of a tunnel header.
	SetIdentityPeer struct {
		Identity identity.ID
		Peer     uint32
	}
	// DeleteIdentityPeer forgets an identity.
	DeleteIdentityPeer struct{ Identity identity.ID }
	// PutAddress stores a row of the ipcache.
	PutAddress struct {
		Prefix netip.Prefix
		Entry  Entry
	}
	// DeleteAddress removes a row of the ipcache.
	DeleteAddress struct{ Prefix netip.Prefix }
	// SetEndpoint stores identity and peers of an endpoint, then both slots in one store.
	SetEndpoint struct {
		Endpoint uint16
		Row      EndpointRow
	}
	// BumpEndpoint ends the cached verdicts of an endpoint's side of its flows.
	BumpEndpoint struct{ Endpoint uint16 }
	// BumpPeer ends the cached verdicts about whoever has an address.
	BumpPeer struct{ Addr netip.Addr }
	// BumpPeers ends the cached verdicts about everybody.
	BumpPeers struct{}
	// Grace waits until no program that ran before it is still running (RCU).
	Grace struct{}
)

func (WriteClass) op()         {}
func (WriteSet) op()           {}
func (DeleteSet) op()          {}
func (SetPeer) op()            {}
func (SetCell) op()            {}
func (SetIdentityPeer) op()    {}
func (DeleteIdentityPeer) op() {}
func (PutAddress) op()         {}
func (DeleteAddress) op()      {}
func (SetEndpoint) op()        {}
func (BumpEndpoint) op()       {}
func (BumpPeer) op()           {}
func (BumpPeers) op()          {}
func (Grace) op()              {}
