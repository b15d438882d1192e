// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/service"
)

// endpointList returns the endpoints that carry all of the labels.
func (a *Agent) endpointList(labels []string) []rest.Endpoint {
	out := []rest.Endpoint{}
	for _, e := range a.tables.endpoints.Snapshot().All() {
		if carries(e.Labels, labels) {
			out = append(out, a.restEndpoint(e))
		}
	}
	slices.SortFunc(out, func(x, y rest.Endpoint) int { return int(x.ID - y.ID) })
	return out
}

func carries(set label.Set, labels []string) bool {
	for _, text := range labels {
		want := label.Parse(text)
		value, ok := set.Get(want.Source, want.Key)
		if !ok || value != want.Value {
			return false
		}
	}
	return true
}

// endpointPart answers {id}, {id}/log, {id}/healthz, {id}/labels, {id}/config.
// The id may also be pod-name:NAMESPACE:NAME, container-id:ID or ip:ADDRESS.
func (a *Agent) endpointPart(path string) (any, error) {
	// A pod's name may be written with a slash: pod-name:default/curl.
	id, part := path, ""
	if i := strings.LastIndexByte(path, '/'); i >= 0 && slices.Contains([]string{"log", "healthz", "labels", "config"}, path[i+1:]) {
		id, part = path[:i], path[i+1:]
	}
	e, err := a.findEndpoint(id)
	if err != nil {
		return nil, err
	}
	full := a.restEndpoint(e)
	switch part {
	case "":
		return full, nil
	case "log":
		return full.Status.Log, nil
	case "healthz":
		return full.Status.Health, nil
	case "labels":
		return rest.LabelConfiguration{Spec: &rest.LabelConfigurationSpec{}, Status: full.Status.Labels}, nil
	default:
		return rest.EndpointConfigurationStatus{Realized: endpointConfig(e)}, nil
	}
}

func (a *Agent) findEndpoint(id string) (endpoint.Endpoint, error) {
	s := a.tables.endpoints.Snapshot()
	kind, rest, named := strings.Cut(id, ":")
	index, key := "", ""
	switch ip, err := netip.ParseAddr(id); {
	case err == nil:
		index, key = "ip", ip.String()
	case !named || kind == "cilium-local":
		if e, found := s.Get(strings.TrimPrefix(id, "cilium-local:")); found {
			return e, nil
		}
	case kind == "pod-name" || kind == "cep-name":
		index, key = "pod", strings.Replace(rest, ":", "/", 1)
	case kind == "container-id":
		index, key = "container", rest
	case kind == "ip" || kind == "ipv4" || kind == "ipv6":
		index, key = "ip", rest
	}
	if index != "" {
		for _, e := range s.Index(index, key) {
			return e, nil
		}
	}
	return endpoint.Endpoint{}, notFound("there is no endpoint %s on this node", id)
}

func (a *Agent) restEndpoint(e endpoint.Endpoint) rest.Endpoint {
	pair := rest.AddressPair{}
	if e.IPv4.IsValid() {
		pair.IPv4 = e.IPv4.String()
	}
	if e.IPv6.IsValid() {
		pair.IPv6 = e.IPv6.String()
	}
	policy := &rest.EndpointPolicy{
		PolicyRevision: int64(e.PolicyRevision), ID: int64(e.Identity), PolicyEnabled: policyEnabled(e),
	}
	health := &rest.EndpointHealth{OverallHealth: "OK", BPF: "OK", Policy: "OK", Connected: e.State == endpoint.StateReady}
	code := "ok"
	if e.Error != "" {
		health.OverallHealth, health.Policy, code = "Failure", "Failure", "failed"
	} else if e.State != endpoint.StateReady {
		health.OverallHealth, health.Policy = "Pending", "Pending"
	}
	status := &rest.EndpointStatus{
		ExternalIdentifiers: &rest.EndpointIdentifiers{
			CNIAttachmentID: e.ContainerID + ":" + e.ContainerIfName, ContainerID: e.ContainerID,
			PodName: e.PodKey(), K8sPodName: e.Pod, K8sNamespace: e.Namespace,
		},
		Identity: &rest.Identity{ID: int64(e.Identity), Labels: e.Labels.Strings(), LabelsSHA256: labelsSum(e.Labels)},
		Labels: &rest.LabelConfigurationStatus{
			Realized: &rest.LabelConfigurationSpec{}, SecurityRelevant: e.Labels.Strings(),
		},
		Realized: endpointConfig(e),
		Networking: &rest.EndpointNetworking{
			Addressing: []rest.AddressPair{pair}, HostMAC: macText(e.NodeMAC), MAC: macText(e.MAC),
			InterfaceName: e.Interface, InterfaceIndex: int64(e.IfIndex), ContainerInterfaceName: e.ContainerIfName,
		},
		Policy: &rest.EndpointPolicyStatus{Spec: policy, Realized: policy},
		State:  string(e.State), Health: health,
		Log: []rest.EndpointStatusChange{{Timestamp: e.Created.UTC().Format(time.RFC3339), Code: code, Message: e.Error, State: string(e.State)}},
	}
	if pod, ok := a.tables.pods.Get(e.PodKey()); ok && pod.UID == e.PodUID {
		status.Labels.Disabled = a.disabledLabels(pod)
	}
	for _, p := range e.Ports {
		status.NamedPorts = append(status.NamedPorts, rest.Port{Name: p.Name, Port: p.Number, Protocol: protocolName(p.Protocol)})
	}
	return rest.Endpoint{ID: int64(e.ID), Spec: &rest.EndpointConfigurationSpec{LabelConfiguration: &rest.LabelConfigurationSpec{}}, Status: status}
}

// disabledLabels are those of a pod that do not count for its identity.
func (a *Agent) disabledLabels(p endpoint.Pod) rest.Labels {
	var out rest.Labels
	for k, v := range p.Labels {
		if l := (label.Label{Source: label.SourceK8s, Key: k, Value: v}); !a.opts.labels.Counts(l) {
			out = append(out, l.String())
		}
	}
	slices.Sort(out)
	return out
}

func policyEnabled(e endpoint.Endpoint) string {
	switch {
	case e.Ingress.Enforcing && e.Egress.Enforcing:
		return rest.PolicyEnabledBoth
	case e.Ingress.Enforcing:
		return rest.PolicyEnabledIngress
	case e.Egress.Enforcing:
		return rest.PolicyEnabledEgress
	}
	return rest.PolicyEnabledNone
}

func labelsSum(l label.Set) string {
	sum := sha256.Sum256([]byte(l.Key()))
	return hex.EncodeToString(sum[:])
}

// identityList returns the identities that carry all of the labels, by number.
func (a *Agent) identityList(labels []string) []rest.Identity {
	out := []rest.Identity{}
	for id, set := range a.allIdentities() {
		if carries(set, labels) {
			out = append(out, rest.Identity{ID: int64(id), Labels: set.Strings(), LabelsSHA256: labelsSum(set)})
		}
	}
	slices.SortFunc(out, func(x, y rest.Identity) int { return int(x.ID - y.ID) })
	return out
}

func (a *Agent) allIdentities() map[identity.ID]label.Set {
	all := a.ids.known()
	for id, set := range reservedLabels(rowsOf(a.tables.addresses), service.APIServers(a.tables.slices.Snapshot())) {
		all[id] = set
	}
	maps.Copy(all, a.ids.locals())
	return all
}

func (a *Agent) identity(text string) (any, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil, httpError{400, fmt.Sprintf("%q is not the number of an identity", text)}
	}
	set, ok := a.allIdentities()[identity.ID(n)]
	if !ok {
		return nil, notFound("there is no identity %d", n)
	}
	return rest.Identity{ID: int64(n), Labels: set.Strings(), LabelsSHA256: labelsSum(set)}, nil
}

func (a *Agent) identityEndpoints() []rest.IdentityEndpoints {
	count := map[identity.ID]int64{}
	labels := map[identity.ID]label.Set{}
	for _, e := range a.tables.endpoints.Snapshot().All() {
		count[e.Identity]++
		labels[e.Identity] = e.Labels
	}
	out := []rest.IdentityEndpoints{}
	for id, n := range count {
		out = append(out, rest.IdentityEndpoints{Identity: &rest.Identity{ID: int64(id), Labels: labels[id].Strings(), LabelsSHA256: labelsSum(labels[id])}, RefCount: n})
	}
	slices.SortFunc(out, func(x, y rest.IdentityEndpoints) int { return int(x.Identity.ID - y.Identity.ID) })
	return out
}

// ipList returns who is behind the prefixes inside cidr, "" is all.
func (a *Agent) ipList(cidr string) (any, error) {
	within := netip.Prefix{}
	if cidr != "" {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			ip, ipErr := netip.ParseAddr(cidr)
			if ipErr != nil {
				return nil, httpError{400, err.Error()}
			}
			p = host(ip)
		}
		within = p.Masked()
	}
	out := []rest.IPListEntry{}
	for _, r := range a.tables.addresses.Snapshot().All() {
		if within.IsValid() && (!within.Contains(r.Prefix.Addr()) || r.Prefix.Bits() < within.Bits()) {
			continue
		}
		entry := rest.IPListEntry{
			CIDR: r.Prefix.String(), Identity: int64(r.Identity),
			Metadata: &rest.IPListEntryMetadata{Source: r.Source, Namespace: r.Namespace, Name: r.Name},
		}
		if r.HostIP.IsValid() {
			entry.HostIP = r.HostIP.String()
		}
		out = append(out, entry)
	}
	return out, nil
}
