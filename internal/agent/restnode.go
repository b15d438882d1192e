// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/service"
)

func (a *Agent) nodeElements() []rest.NodeElement {
	out := []rest.NodeElement{}
	for _, n := range a.tables.nodes.Snapshot().All() {
		out = append(out, nodeElement(n))
	}
	return out
}

func (a *Agent) nodeList() rest.ClusterNodeStatus {
	return rest.ClusterNodeStatus{Self: a.opts.NodeName, NodesAdded: a.nodeElements(), NodesRemoved: []rest.NodeElement{}}
}

func nodeElement(n node.Node) rest.NodeElement {
	e := rest.NodeElement{Name: n.Name, Source: "custom-resource", PrimaryAddress: addressing(n)}
	if n.Local {
		e.Source = "local"
	}
	for _, ip := range n.Router {
		e.SecondaryAddresses = append(e.SecondaryAddresses, rest.NodeAddressingElement{IP: ip.String(), AddressType: "CiliumInternalIP"})
	}
	if len(n.Health) > 0 {
		e.HealthEndpointAddress = &rest.NodeAddressing{}
		for _, ip := range n.Health {
			one := &rest.NodeAddressingElement{Enabled: true, IP: ip.String()}
			if ip.Is4() {
				e.HealthEndpointAddress.IPv4 = one
			} else {
				e.HealthEndpointAddress.IPv6 = one
			}
		}
	}
	return e
}

// addressing is a node's first address and pod range of each family.
func addressing(n node.Node) *rest.NodeAddressing {
	out := &rest.NodeAddressing{IPv4: &rest.NodeAddressingElement{}, IPv6: &rest.NodeAddressingElement{}}
	of := func(ip netip.Addr) *rest.NodeAddressingElement {
		if ip.Is4() {
			return out.IPv4
		}
		return out.IPv6
	}
	for _, ip := range n.InternalIP {
		if e := of(ip); e.IP == "" {
			e.Enabled, e.IP, e.AddressType = true, ip.String(), "InternalIP"
		}
	}
	for _, r := range n.PodCIDRs {
		if e := of(r.Addr()); e.AllocRange == "" {
			e.AllocRange = r.String()
		}
	}
	return out
}

func (a *Agent) nodeIDs() (any, error) {
	dp, err := a.datapath()
	if err != nil {
		return nil, err
	}
	rows, err := dp.NodeRows()
	if err != nil {
		return nil, err
	}
	out := []rest.NodeID{}
	for _, r := range rows {
		id := rest.NodeID{ID: int64(r.Index), IPs: []string{}}
		for _, ip := range r.Addresses {
			id.IPs = append(id.IPs, ip.String())
		}
		out = append(out, id)
	}
	return out, nil
}

// problemsOf are those of the object that a frontend follows from.
func (a *Agent) problemsOf(f service.Frontend) []string {
	owner := f.Service
	switch {
	case f.Redirect != "":
		owner = redirectOwner + f.Redirect
	case f.Kind == service.HostPort:
		owner = podOwner + f.Service
	}
	p, _ := a.tables.problems.Get(owner)
	return p.Texts
}

func (a *Agent) serviceList() []rest.Service {
	out := []rest.Service{}
	shown := map[string]bool{}
	for _, f := range a.tables.frontends.Snapshot().All() {
		if f.Rest() {
			continue
		}
		namespace, name, _ := strings.Cut(f.Service, "/")
		spec := &rest.ServiceSpec{
			ID:              int64(len(out) + 1),
			FrontendAddress: &rest.FrontendAddress{IP: f.Addr.String(), Port: f.Port, Protocol: strings.ToLower(protocolName(f.Protocol)), Scope: f.Scope.String()},
			Flags:           &rest.ServiceFlags{Type: string(f.Kind), Name: name, Namespace: namespace},
		}
		for _, b := range f.Backends {
			spec.BackendAddresses = append(spec.BackendAddresses, rest.BackendAddress{IP: b.Addr.String(), Port: b.Port, State: string(b.State), NodeName: b.Node, Weight: b.Weight})
		}
		out = append(out, rest.Service{Spec: spec, Status: &rest.ServiceStatus{Realized: spec, Why: f.Why, Problems: a.problemsOf(f)}})
		shown[f.Service] = true
	}
	for _, p := range a.tables.problems.Snapshot().All() {
		if name := p.Namespace + "/" + p.Name; p.Kind == "CiliumLocalRedirectPolicy" || shown[name] {
			continue
		}
		spec := &rest.ServiceSpec{Flags: &rest.ServiceFlags{Name: p.Name, Namespace: p.Namespace}}
		out = append(out, rest.Service{Spec: spec, Status: &rest.ServiceStatus{Realized: spec, Why: "nothing of it is served here", Problems: p.Texts}})
	}
	return out
}

func (a *Agent) bpfMaps() ([]rest.BPFMap, error) {
	dp, err := a.datapath()
	if err != nil {
		return nil, err
	}
	list, err := dp.Maps()
	if err != nil {
		return nil, err
	}
	out := []rest.BPFMap{}
	for _, m := range list {
		out = append(out, restMap(m))
	}
	return out, nil
}

func (a *Agent) mapList() (any, error) {
	list, err := a.bpfMaps()
	return rest.BPFMapList{Maps: list}, err
}

func (a *Agent) mapNamed(name string) (any, error) {
	list, err := a.bpfMaps()
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, notFound("there is no map %s", name)
}

func (a *Agent) tableList() []rest.TableInfo {
	out := []rest.TableInfo{}
	for _, t := range a.tables.all() {
		_, rows := t.Describe()
		info := rest.TableInfo{Name: t.Name(), Rows: len(rows), Revision: t.Revision()}
		select {
		case <-t.Synced():
			info.Synced = true
		default:
		}
		out = append(out, info)
	}
	return out
}

func (a *Agent) tableNamed(name string) (any, error) {
	var names []string
	for _, t := range a.tables.all() {
		if t.Name() == name {
			headings, rows := t.Describe()
			return rest.Table{Name: name, Headings: headings, Rows: rows}, nil
		}
		names = append(names, t.Name())
	}
	return nil, notFound("there is no table %s; there are %s", name, strings.Join(names, ", "))
}

func (a *Agent) bpfDump(name string) (any, error) {
	dp, err := a.datapath()
	if err != nil {
		return nil, err
	}
	headings, rows, err := dp.Dump(name)
	if err != nil {
		return nil, httpError{http.StatusNotFound, err.Error()}
	}
	return rest.Table{Name: name, Headings: headings, Rows: rows}, nil
}
