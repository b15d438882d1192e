// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/report"
	"github.com/stentor-net/stentor/internal/service"
)

// Errors of a Cluster.
var (
	// ErrNotFound says that the API server has no such object.
	ErrNotFound = errors.New("no such object")
	// ErrTaken says that the number of an identity belongs to other labels.
	ErrTaken = errors.New("number is taken")
)

// Machine is what Kubernetes says about this node.
type Machine struct {
	UID        string
	BootID     string
	InternalIP []netip.Addr
	ExternalIP []netip.Addr
	PodCIDRs   []netip.Prefix
	Labels     map[string]string
}

// Cluster is the Kubernetes API as the agent uses it. The real one is in
// cluster.go, over internal/k8s.
type Cluster interface {
	// Reflect keeps the raw tables as the API server has them, until ctx ends.
	Reflect(ctx context.Context, raw RawWriters) error
	// Pod reads one pod, past the watch. It fails with ErrNotFound.
	Pod(ctx context.Context, namespace, name string) (endpoint.Pod, error)
	// Machine reads this node's Node object.
	Machine(ctx context.Context) (Machine, error)
	// PublishNode creates or changes this node's CiliumNode.
	PublishNode(ctx context.Context, edit func(*ciliumv2.CiliumNode)) error
	// CreateIdentity stores labels under a number. It fails with ErrTaken.
	CreateIdentity(ctx context.Context, id identity.ID, labels label.Set) error
	// KeepIdentity tells the operator that a number is in use. It fails with ErrNotFound.
	KeepIdentity(ctx context.Context, id identity.ID) error
	// PublishEndpoint creates or changes the CiliumEndpoint of a pod.
	PublishEndpoint(ctx context.Context, e *ciliumv2.CiliumEndpoint) error
	// DeleteEndpoint removes the CiliumEndpoint of the pod with the UID, if there is one.
	DeleteEndpoint(ctx context.Context, namespace, name, podUID string) error
	// MarkReady removes the taint of a node without agent, and says that the network works.
	MarkReady(ctx context.Context) error
	// PublishReport tells the operator what policy this node has in force.
	PublishReport(ctx context.Context, r report.Report) error
	// Tell makes an event on this node's object, or brings the one of the same
	// reason and beginning up to date.
	Tell(ctx context.Context, n Notice) error
	// Warn makes an event on an object.
	Warn(ctx context.Context, w Warning) error
	// Version asks the server for its version, the cheapest call there is.
	Version(ctx context.Context) (string, error)
	// Host is the server's address.
	Host() string
}

// Datapath is the kernel as the agent uses it: internal/datapath.
type Datapath interface {
	MTU() int

	AddPodLink(ctx context.Context, l *PodLink) error
	CheckPodLink(ctx context.Context, l PodLink) error
	DelPodLink(ctx context.Context, l PodLink) error

	PutEndpoint(b EndpointBase) error
	EnableEndpoint(id uint16) error
	RemoveEndpoint(id uint16) error
	Endpoints() ([]EndpointBase, error)

	PolicyState() (policy.State, error)
	ApplyPolicy(ops []policy.Op) error
	SetNodes(rows []NodeRow) error
	NodeRows() ([]NodeRow, error)
	SetFrontends(list []service.Frontend) error
	ChangeFrontends(put []service.Frontend, remove []service.FrontendKey) error
	NetNSCookie(path string) (uint64, error)
	CloseStaleSockets(netns []string, tcp bool) (closed ClosedSockets, left bool, err error)

	Events(ctx context.Context, fn func(Event)) error
	Dump(name string) (headings []string, rows [][]string, err error)
	Maps() ([]MapInfo, error)
	Metrics() ([]MetricRow, error)
	Swept() SweepStats
	Run(ctx context.Context) error
	Close() error
}

// Engine judges: internal/policy.
type Engine interface {
	Update(in policy.Input) policy.Outcome
	Apply(d policy.Delta) policy.Outcome
	// L7 gives the L7 rules that the kernel names once the last outcome is carried out.
	L7() []l7.Source
}
