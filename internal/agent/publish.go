// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/node"
)

// publisher keeps a CiliumEndpoint for each pod of this node, by which other
// nodes learn its identity. A pod that has two endpoints for a moment, because
// its sandbox was made again, is published with the newer one.
type publisher struct {
	log     *slog.Logger
	tables  *tables
	cluster Cluster
	checks  *checks

	stored map[string]*ciliumv2.CiliumEndpoint // by namespace/name: what this agent wrote last
	from   map[string]origin                   // what it was made from
	seen   map[string]bool                     // those that the watch has shown since
}

// origin is what an object was made from: an endpoint, and revisions of rows.
type origin struct {
	id                   uint16
	incarnation          uint32
	endpoint, nodes, pod uint64
}

// Pace of the publisher.
const (
	publishEvery = 10 * time.Millisecond // changes that come closer are taken together
	publishRetry = time.Second
)

func (p *publisher) Run(ctx context.Context) error {
	p.stored, p.seen, p.from = map[string]*ciliumv2.CiliumEndpoint{}, map[string]bool{}, map[string]origin{}
	if err := waitSynced(ctx, p.tables.nodes, p.tables.pods, p.tables.remotes); err != nil {
		return err
	}
	for {
		seen := watch(p.tables.endpoints, p.tables.nodes, p.tables.remotes)
		if err := p.step(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			p.checks.warn("ciliumendpoints", err.Error(), "news of this node's pods on other nodes", "they are published again every second")
			if err := pause(ctx, publishRetry); err != nil {
				return err
			}
			continue
		}
		p.checks.ok("ciliumendpoints", "")
		if err := pause(ctx, publishEvery); err != nil {
			return err
		}
		if err := waitAny(ctx, seen...); err != nil {
			return err
		}
	}
}

// step publishes what differs. It returns the first error, after having tried all.
func (p *publisher) step(ctx context.Context) error {
	var first error
	keep := func(err error) {
		if first == nil && err != nil {
			first = err
		}
	}
	p.forgetDeleted()
	nodes := p.tables.nodes.Revision() // before self: never older than it
	wanted := map[string]endpoint.Endpoint{}
	endpoints, pods := p.tables.endpoints.Snapshot(), p.tables.pods.Snapshot()
	for _, e := range endpoints.All() {
		if !published(e.State) {
			continue
		}
		if old, ok := wanted[e.PodKey()]; !ok || e.Created.After(old.Created) {
			wanted[e.PodKey()] = e
		}
	}
	self := localRow(p.tables)
	for key, e := range wanted {
		from := origin{e.ID, e.Incarnation, endpoints.Written(fmt.Sprint(e.ID)), nodes, pods.Written(key)}
		if p.stored[key] != nil && p.from[key] == from {
			continue
		}
		want := ciliumEndpoint(e, self)
		if pod, ok := pods.Get(key); ok && pod.UID == e.PodUID {
			want.Status.ServiceAccount = pod.ServiceAccount
		}
		if reflect.DeepEqual(p.stored[key], want) {
			p.from[key] = from
			continue
		}
		if err := p.cluster.PublishEndpoint(ctx, want.DeepCopy()); err != nil {
			keep(err)
			continue
		}
		p.stored[key], p.from[key] = want, from
	}
	for key, uid := range p.left(self) {
		if _, ok := wanted[key]; ok {
			continue
		}
		namespace, name, _ := strings.Cut(key, "/")
		if err := p.cluster.DeleteEndpoint(ctx, namespace, name, uid); err != nil {
			keep(err)
			continue
		}
		delete(p.stored, key)
		delete(p.from, key)
		delete(p.seen, key)
	}
	return first
}

// left are the objects of this node with the UIDs of their pods: those that this
// agent wrote, and those of agents before it. Where one of those stays after its
// pod lost its interface while no agent ran, two objects claim an address as
// soon as it has another owner.
func (p *publisher) left(self node.Node) map[string]string {
	out := map[string]string{}
	for key, r := range p.tables.remotes.Snapshot().All() {
		if r.PodUID != "" && r.NodeIP.IsValid() && r.NodeIP == self.Underlay() {
			out[key] = r.PodUID
		}
	}
	for key, o := range p.stored {
		out[key] = string(o.OwnerReferences[0].UID)
	}
	return out
}

// forgetDeleted notes which objects somebody has deleted, so that they are made again.
func (p *publisher) forgetDeleted() {
	s := p.tables.remotes.Snapshot()
	for key := range p.stored {
		_, there := s.Get(key)
		if !there && p.seen[key] {
			delete(p.stored, key)
		}
		p.seen[key] = there
	}
}

// published tells whether endpoints of this state are shown to other nodes. A
// pod is shown before its policy is in force, so that its first packets are known.
func published(s endpoint.State) bool {
	return s != endpoint.StateDisconnecting && s != endpoint.StateDisconnected && s != endpoint.StateNotReady
}

func localRow(t *tables) node.Node {
	for _, n := range t.nodes.Snapshot().All() {
		if n.Local {
			return n
		}
	}
	return node.Node{}
}

// ciliumEndpoint is the object as other nodes and users of kubectl read it.
func ciliumEndpoint(e endpoint.Endpoint, self node.Node) *ciliumv2.CiliumEndpoint {
	visibility := ciliumv2.PolicyStateDisabled
	pair := ciliumv2.AddressPair{}
	if e.IPv4.IsValid() {
		pair.IPV4 = e.IPv4.String()
	}
	if e.IPv6.IsValid() {
		pair.IPV6 = e.IPv6.String()
	}
	o := &ciliumv2.CiliumEndpoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, Name: e.Pod,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: e.Pod, UID: types.UID(e.PodUID)}},
		},
		Status: ciliumv2.EndpointStatus{
			ID: int64(e.ID),
			ExternalIdentifiers: &ciliumv2.EndpointIdentifiers{
				CNIAttachmentID: e.ContainerID + ":" + e.ContainerIfName, ContainerID: e.ContainerID,
				K8sNamespace: e.Namespace, K8sPodName: e.Pod, PodName: e.PodKey(),
			},
			Identity:   &ciliumv2.EndpointIdentity{ID: int64(e.Identity), Labels: e.Labels.Strings()},
			Networking: &ciliumv2.EndpointNetworking{Addressing: []ciliumv2.AddressPair{pair}},
			Policy: &ciliumv2.EndpointPolicy{
				Ingress: direction(e.Ingress), Egress: direction(e.Egress),
			},
			State:                  string(e.State),
			VisibilityPolicyStatus: &visibility,
		},
	}
	if u := self.Underlay(); u.IsValid() {
		o.Status.Networking.NodeIP = u.String()
	}
	for _, p := range e.Ports {
		o.Status.NamedPorts = append(o.Status.NamedPorts, ciliumv2.NamedPort{Name: p.Name, Port: p.Number, Protocol: protocolName(p.Protocol)})
	}
	return o
}

func direction(e endpoint.Enforcement) *ciliumv2.EndpointPolicyDirection {
	d := &ciliumv2.EndpointPolicyDirection{Enforcing: e.Enforcing, State: ciliumv2.PolicyStateDisabled}
	if e.Enforcing {
		d.State = ciliumv2.PolicyStateEnforcing
	}
	return d
}

func protocolName(p uint8) string {
	switch p {
	case 1:
		return "ICMPv4"
	case 6:
		return "TCP"
	case 17:
		return "UDP"
	case 58:
		return "ICMPv6"
	case 132:
		return "SCTP"
	}
	return "ANY"
}
