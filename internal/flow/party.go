// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	pb "github.com/stentor-net/stentor/api/flow"
)

// Party is who was behind an address when it was seen. It never changes: when
// somebody else gets the address, that is another Party.
type Party struct {
	Endpoint *pb.Endpoint
	Names    []string // DNS names that the other side looked up for the address
	Node     string   // of the cluster, where the address is one of its own
	labels   labels.Set
}

// NewParty makes a party; nobody may change what it is made of.
func NewParty(e *pb.Endpoint, names []string, node string) *Party {
	return &Party{Endpoint: e, Names: names, Node: node, labels: selectable(e.GetLabels())}
}

// selectable gives labels under the keys that selectors ask for: source.key, any.key and key.
func selectable(list []string) labels.Set {
	out := make(labels.Set, 3*len(list))
	for _, text := range list {
		key, value, _ := strings.Cut(text, "=")
		source, name, ok := strings.Cut(key, ":")
		if !ok {
			source, name = "", key
		}
		if source != "" {
			out[source+"."+name] = value
		}
		out["any."+name] = value
		out[name] = value
	}
	return out
}

// endpoint is the wire form of a party of which perhaps only the identity is known.
func (p *Party) endpoint(identity uint32) *pb.Endpoint {
	if p == nil {
		return &pb.Endpoint{Identity: identity}
	}
	return p.Endpoint
}

func (p *Party) names() []string {
	if p == nil {
		return nil
	}
	return p.Names
}
