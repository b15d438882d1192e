// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/policy"
)

// dumps are the tables that can be printed, with their columns.
var dumps = []struct {
	name     string
	headings []string
	read     func(*Set) ([][]string, error)
}{
	{"ct", []string{"PROTO", "FROM", "TO", "ENDPOINTS", "IDENTITIES", "VERDICTS", "FLAGS", "IDLE", "PACKETS", "BYTES"}, (*Set).dumpFlows},
	{"endpoint", []string{"ID", "IFINDEX", "IPV4", "IPV6", "IDENTITY", "EGRESS-SLOT", "INGRESS-SLOT", "MAC", "NODE-MAC", "READY"}, (*Set).dumpEndpoints},
	{"ipcache", []string{"PREFIX", "IDENTITY", "PEER", "NODE", "FLAGS"}, (*Set).dumpAddresses},
	{"lb", []string{"FRONTEND", "SCOPE", "ID", "TYPE", "BACKENDS", "ALGORITHM", "AFFINITY", "FLAGS"}, (*Set).dumpServices},
	{"lb-affinity", []string{"CLIENT", "ID", "BACKEND", "IDLE"}, (*Set).dumpAffinity},
	{"lb-backends", []string{"BACKEND", "NUMBER", "STATE", "FRONTENDS"}, (*Set).dumpBackends},
	{"lb-maglev", []string{"ID", "FRONTEND", "SIZE", "BACKENDS"}, (*Set).dumpMaglev},
	{"lb-source-ranges", []string{"ID", "FRONTEND", "CLIENTS"}, (*Set).dumpSources},
	{"metrics", []string{"REASON", "DIRECTION", "PACKETS", "BYTES"}, (*Set).dumpMetrics},
	{"nat", []string{"PROTO", "DIRECTION", "REMOTE", "LOCAL", "BECOMES", "ENDPOINT", "IDLE"}, (*Set).dumpNAT},
	{"nodes", []string{"INDEX", "UNDERLAY", "ADDRESSES"}, (*Set).dumpNodes},
	{"policy", []string{"ENDPOINT", "DIRECTION", "SLOT", "CLASS", "PEERS", "SET", "ANSWER"}, (*Set).dumpPolicy},
}

// DumpNames are the tables that Dump knows.
func DumpNames() (out []string) {
	for _, d := range dumps {
		out = append(out, d.name)
	}
	return out
}

// Dump reads a table for printing.
func (s *Set) Dump(name string) (headings []string, rows [][]string, err error) {
	for _, d := range dumps {
		if d.name == name {
			rows, err := d.read(s)
			slices.SortFunc(rows, slices.Compare[[]string])
			return d.headings, rows, err
		}
	}
	return nil, nil, fmt.Errorf("no table %q; there are %s", name, strings.Join(DumpNames(), ", "))
}

func (s *Set) dumpFlows() (rows [][]string, err error) {
	idle, err := s.idle()
	if err != nil {
		return nil, err
	}
	err = each(s.maps[abi.MapFlows], func(k abi.FlowKey, f abi.Flow) {
		from, to := socket(k.A, k.PortA), socket(k.B, k.PortB)
		if f.Flags&abi.FlowFromB != 0 {
			from, to = to, from
		}
		rows = append(rows, []string{protocol(k.Protocol), from, to,
			pair(f.Endpoint), pair(f.Identity), side(f.Side[0]) + "/" + side(f.Side[1]), flowFlags(k, f), idle(f.Last),
			pair(f.Packets), fmt.Sprintf("%d/%d", f.Bytes[0], f.Bytes[1])})
	})
	return rows, err
}

func side(word uint64) string {
	switch v := word >> 48; {
	case v&abi.FlowSideElsewhere != 0:
		return "elsewhere"
	case v&abi.FlowSideRedirect != 0:
		return "redirect"
	case v&abi.FlowSideAllow != 0:
		return "allow"
	}
	return "none"
}

func flowFlags(k abi.FlowKey, f abi.Flow) string {
	return flags(uint64(f.Flags), []string{"via-stack", "picked-up", "closing", "replied", "masqueraded", "proxied"}, "leg-"+strconv.Itoa(int(k.Leg)), k.Leg != 0)
}

func (s *Set) dumpEndpoints() (rows [][]string, err error) {
	for _, e := range s.Endpoints() {
		r := *s.row(e.ID)
		rows = append(rows, []string{num(e.ID), num(e.IfIndex), text(e.IPv4), text(e.IPv6), num(r.Identity),
			num(uint16(r.Slots)), num(r.Slots >> 16), net.HardwareAddr(e.MAC[:]).String(), net.HardwareAddr(e.NodeMAC[:]).String(), strconv.FormatBool(e.Ready)})
	}
	return rows, nil
}

func (s *Set) dumpAddresses() (rows [][]string, err error) {
	err = each(s.maps[abi.MapIpcache], func(k abi.IpcacheKey, e abi.IpcacheEntry) {
		rows = append(rows, []string{prefixOf(k).String(), num(e.Identity), num(e.Peer), num(e.Node),
			flags(uint64(e.Flags), []string{"host", "node", "pod", "local-pods", "remote-pods", "tunnel", "cluster-route"}, "", false)})
	})
	return rows, err
}

func (s *Set) dumpMetrics() (rows [][]string, err error) {
	list, err := s.Metrics()
	for _, m := range list {
		direction := "egress"
		if m.Ingress {
			direction = "ingress"
		}
		rows = append(rows, []string{m.ReasonText, direction, num(m.Packets), num(m.Bytes)})
	}
	return rows, err
}

func (s *Set) dumpNAT() (rows [][]string, err error) {
	idle, err := s.idle()
	if err != nil {
		return nil, err
	}
	err = each(s.maps[abi.MapNAT], func(k abi.NATKey, e abi.NATEntry) {
		direction := "out"
		if k.Direction == abi.NATIn {
			direction = "in"
		}
		rows = append(rows, []string{protocol(k.Protocol), direction, socket(k.Remote, k.RemotePort), socket(k.Local, k.LocalPort),
			socket(e.Addr, e.Port), num(e.Endpoint), idle(e.Last)})
	})
	return rows, err
}

func (s *Set) dumpNodes() (rows [][]string, err error) {
	list, err := s.Nodes()
	for _, n := range list {
		var addrs []string
		for _, a := range n.Addresses {
			addrs = append(addrs, a.String())
		}
		rows = append(rows, []string{num(n.Index), text(n.Underlay), strings.Join(addrs, ",")})
	}
	return rows, err
}

// dumpPolicy prints, for each endpoint and direction, the answer for each class
// of peers: what the old picture of a policy map per pod was.
func (s *Set) dumpPolicy() (rows [][]string, err error) {
	st, err := s.ReadPolicy()
	if err != nil {
		return nil, err
	}
	peers := map[uint32]int{}
	for _, class := range st.Peers {
		peers[class]++
	}
	for id, e := range st.Endpoints {
		for _, d := range []struct {
			name string
			slot uint16
		}{{"egress", e.Egress}, {"ingress", e.Ingress}} {
			for class, row := range st.Classes {
				set := uint32(row[d.slot])
				if d.slot == policy.SlotOpen {
					set = policy.SetAllow
				}
				rows = append(rows, []string{num(id), d.name, num(d.slot), num(class), num(peers[class]), num(set), answer(set, st.Sets[set])})
			}
		}
	}
	return rows, nil
}

func answer(set uint32, rows []policy.SetRow) string {
	switch set {
	case policy.SetDeny:
		return "deny all"
	case policy.SetAllow:
		return "allow all"
	}
	var out []string
	for _, r := range rows {
		verdict := []string{"deny", "allow", "redirect"}[min(r.Verdict, 2)]
		where := "any"
		if r.Protocol != 0 {
			where = protocol(r.Protocol)
		}
		if r.PortBits > 0 {
			where += ":" + num(r.Port)
		}
		if r.PortBits > 0 && r.PortBits < 16 {
			where += "/" + num(r.PortBits)
		}
		out = append(out, verdict+" "+where)
	}
	return strings.Join(out, ", ")
}

// idle returns a function that prints the time since a stamp.
func (s *Set) idle() (func(last uint32) string, error) {
	now, hz, err := s.Jiffies()
	return func(last uint32) string {
		d := time.Duration(int32(now-last)) * time.Second / time.Duration(max(hz, 1))
		return max(d, 0).Round(time.Second).String()
	}, err
}

func flags(v uint64, names []string, extra string, with bool) string {
	var out []string
	for i, n := range names {
		if v&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	if with {
		out = append(out, extra)
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ",")
}

func socket(a abi.Addr, port uint16) string {
	return netip.AddrPortFrom(unmapped(a), swap(port)).String()
}

func protocol(p uint8) string {
	switch p {
	case 1:
		return "ICMP"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	case 132:
		return "SCTP"
	}
	return num(p)
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func num[T uint8 | uint16 | uint32 | uint64 | int](v T) string {
	return strconv.FormatUint(uint64(v), 10)
}

func pair[T uint16 | uint32](v [2]T) string {
	return num(v[0]) + "/" + num(v[1])
}
