// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/file"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/node"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/report"
	"github.com/stentor-net/stentor/internal/rpc"
	"github.com/stentor-net/stentor/internal/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCluster is an API server in memory. Tests write the raw tables by raw.
type fakeCluster struct {
	mu       sync.Mutex
	raw      RawWriters
	started  chan struct{}
	pods     map[string]endpoint.Pod
	taken    map[identity.ID]bool
	creates  int
	stored   map[string]*ciliumv2.CiliumEndpoint
	machine  Machine
	ranges   []netip.Prefix // given by the operator
	claimed  []ciliumv2.CIDR
	down     error
	noCreate bool // identities are stored, but the watch does not show them
	marked   bool
	notices  []Notice
	warnings []Warning
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		started: make(chan struct{}), pods: map[string]endpoint.Pod{}, taken: map[identity.ID]bool{},
		stored:  map[string]*ciliumv2.CiliumEndpoint{},
		machine: Machine{UID: "n1", InternalIP: addrs("172.30.0.11")},
		ranges:  []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("fd00:1::/120")},
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func (c *fakeCluster) Reflect(ctx context.Context, raw RawWriters) error {
	c.raw = raw
	raw.Namespaces.Upsert(identity.Namespace{Name: "default", Labels: map[string]string{"kubernetes.io/metadata.name": "default"}})
	raw.Pods.MarkSynced()
	raw.Namespaces.MarkSynced()
	raw.Identities.MarkSynced()
	raw.Nodes.MarkSynced()
	raw.Policies.MarkSynced()
	raw.Groups.MarkSynced()
	raw.Services.MarkSynced()
	raw.Slices.MarkSynced()
	raw.Redirects.MarkSynced()
	raw.Remotes.MarkSynced()
	close(c.started)
	<-ctx.Done()
	return context.Cause(ctx)
}

func (c *fakeCluster) failing() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
}

func (c *fakeCluster) Pod(_ context.Context, namespace, name string) (endpoint.Pod, error) {
	if err := c.failing(); err != nil {
		return endpoint.Pod{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pods[namespace+"/"+name]
	if !ok {
		return p, ErrNotFound
	}
	return p, nil
}

func (c *fakeCluster) Machine(context.Context) (Machine, error) { return c.machine, c.failing() }

func (c *fakeCluster) PublishNode(_ context.Context, edit func(*ciliumv2.CiliumNode)) error {
	if err := c.failing(); err != nil {
		return err
	}
	<-c.started
	o := &ciliumv2.CiliumNode{}
	edit(o)
	c.mu.Lock()
	c.claimed = o.Spec.IPAM.PodCIDRs
	row := node.Node{Name: "n1", Local: true, PodCIDRs: c.ranges, InternalIP: c.machine.InternalIP}
	c.mu.Unlock()
	for _, a := range o.Spec.Addresses {
		if a.Type == ciliumv2.AddressCiliumInternalIP {
			row.Router = append(row.Router, netip.MustParseAddr(a.IP))
		}
	}
	c.raw.Nodes.Upsert(row)
	return nil
}

func (c *fakeCluster) CreateIdentity(_ context.Context, id identity.ID, labels label.Set) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		return c.down
	}
	if c.taken[id] {
		return ErrTaken
	}
	c.taken[id] = true
	c.creates++
	if !c.noCreate {
		c.raw.Identities.Upsert(identity.Identity{ID: id, Labels: labels})
	}
	return nil
}

func (c *fakeCluster) KeepIdentity(_ context.Context, id identity.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.taken[id] {
		return ErrNotFound
	}
	row, _ := c.raw.Identities.Table().Get(id.String())
	row.Unused = false
	c.raw.Identities.Upsert(row)
	return nil
}

func (c *fakeCluster) PublishEndpoint(_ context.Context, e *ciliumv2.CiliumEndpoint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		return c.down
	}
	c.stored[e.Namespace+"/"+e.Name] = e
	return nil
}

func (c *fakeCluster) DeleteEndpoint(_ context.Context, namespace, name, podUID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.stored[namespace+"/"+name]; ok && string(old.OwnerReferences[0].UID) == podUID {
		delete(c.stored, namespace+"/"+name)
	}
	return nil
}

func (c *fakeCluster) published(key string) *ciliumv2.CiliumEndpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stored[key]
}

func (c *fakeCluster) MarkReady(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marked = true
	return nil
}

func (c *fakeCluster) PublishReport(context.Context, report.Report) error {
	return nil
}
func (c *fakeCluster) Tell(_ context.Context, n Notice) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notices = append(c.notices, n)
	return c.down
}

func (c *fakeCluster) Version(context.Context) (string, error) { return "v1.36.3", c.failing() }
func (c *fakeCluster) Host() string                            { return "https://172.30.0.1:6443" }

// fakeKernel is a datapath in memory. It outlives the agents that use it, as
// the real one does, and fails the test where an agent breaks its rules.
type fakeKernel struct {
	t         testing.TB
	mu        sync.Mutex
	links     map[string]PodLink // by netns
	endpoints map[uint16]EndpointBase
	enabled   map[uint16]bool
	applied   map[uint16]policy.EndpointRow // by SetEndpoint
	nodes     []NodeRow
	frontends []service.Frontend
	calls     []string
	refuse    map[string]error // method -> error
	ifindex   int
	events    chan Event
}

func newFakeKernel(t testing.TB) *fakeKernel {
	return &fakeKernel{
		t: t, links: map[string]PodLink{}, endpoints: map[uint16]EndpointBase{}, enabled: map[uint16]bool{},
		applied: map[uint16]policy.EndpointRow{}, refuse: map[string]error{}, events: make(chan Event),
	}
}

func (k *fakeKernel) call(name string, id any) error {
	k.calls = append(k.calls, fmt.Sprintf("%s %v", name, id))
	return k.refuse[name]
}

func (k *fakeKernel) MTU() int { return 1450 }

func (k *fakeKernel) AddPodLink(_ context.Context, l *PodLink) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.call("AddPodLink", l.NetNS); err != nil {
		return err
	}
	k.ifindex++
	l.HostIfName = fmt.Sprint("host", k.ifindex)
	l.IfIndex, l.MAC, l.NodeMAC = k.ifindex, [6]byte{2, 0, 0, 0, 0, byte(k.ifindex)}, [6]byte{2, 1, 0, 0, 0, byte(k.ifindex)}
	k.links[l.NetNS] = *l
	return nil
}

func (k *fakeKernel) CheckPodLink(_ context.Context, l PodLink) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if have, ok := k.links[l.NetNS]; !ok || have.IfIndex != l.IfIndex {
		return fmt.Errorf("no link in %s", l.NetNS)
	}
	return nil
}

func (k *fakeKernel) DelPodLink(_ context.Context, l PodLink) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.call("DelPodLink", l.NetNS); err != nil {
		return err
	}
	delete(k.links, l.NetNS)
	return nil
}

func (k *fakeKernel) PutEndpoint(b EndpointBase) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.call("PutEndpoint", b.ID); err != nil {
		return err
	}
	if old, ok := k.endpoints[b.ID]; ok && old.Incarnation != b.Incarnation {
		k.t.Errorf("endpoint %d was put over another one", b.ID)
	}
	k.endpoints[b.ID] = b
	delete(k.enabled, b.ID)
	delete(k.applied, b.ID)
	return nil
}

func (k *fakeKernel) EnableEndpoint(id uint16) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.call("EnableEndpoint", id); err != nil {
		return err
	}
	if _, ok := k.applied[id]; !ok {
		k.t.Errorf("endpoint %d was opened before its policy was in force", id)
	}
	for other, b := range k.endpoints {
		if other != id && k.enabled[other] && b.IPv4 == k.endpoints[id].IPv4 {
			k.t.Errorf("endpoints %d and %d have the address %s", other, id, b.IPv4)
		}
	}
	k.enabled[id] = true
	return nil
}

func (k *fakeKernel) RemoveEndpoint(id uint16) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.call("RemoveEndpoint", id); err != nil {
		return err
	}
	delete(k.endpoints, id)
	delete(k.enabled, id)
	return nil
}

func (k *fakeKernel) Endpoints() ([]EndpointBase, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []EndpointBase
	for _, b := range k.endpoints {
		out = append(out, b)
	}
	return out, nil
}

func (k *fakeKernel) PolicyState() (policy.State, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := policy.State{Endpoints: map[uint16]policy.EndpointRow{}}
	for id, row := range k.applied {
		s.Endpoints[id] = row
	}
	return s, nil
}

func (k *fakeKernel) ApplyPolicy(ops []policy.Op) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.call("ApplyPolicy", len(ops)); err != nil {
		return err
	}
	for _, op := range ops {
		if set, ok := op.(policy.SetEndpoint); ok {
			k.applied[set.Endpoint] = set.Row
		}
	}
	return nil
}

func (k *fakeKernel) SetNodes(rows []NodeRow) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nodes = slices.Clone(rows)
	return nil
}

func (k *fakeKernel) NodeRows() ([]NodeRow, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.nodes), nil
}

func (k *fakeKernel) SetFrontends(list []service.Frontend) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.frontends = slices.Clone(list)
	return nil
}

func (k *fakeKernel) ChangeFrontends(put []service.Frontend, remove []service.FrontendKey) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	gone := map[service.FrontendKey]bool{}
	for _, id := range remove {
		gone[id] = true
	}
	for _, f := range put {
		gone[f.ID()] = true
	}
	k.frontends = slices.DeleteFunc(k.frontends, func(f service.Frontend) bool { return gone[f.ID()] })
	k.frontends = append(k.frontends, put...)
	return nil
}

func (k *fakeKernel) Events(ctx context.Context, fn func(Event)) error {
	for {
		select {
		case e := <-k.events:
			fn(e)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (k *fakeKernel) Dump(name string) ([]string, [][]string, error) {
	if name != "endpoint" {
		return nil, nil, fmt.Errorf("there is no map %s", name)
	}
	return []string{"ID"}, [][]string{{"1"}}, nil
}
func (k *fakeKernel) Maps() ([]MapInfo, error) { return []MapInfo{{Name: "endpoints", Max: 4096}}, nil }
func (k *fakeKernel) Swept() SweepStats        { return SweepStats{Runs: 2, Alive: 5, Deleted: 1} }
func (k *fakeKernel) Metrics() ([]MetricRow, error) {
	return []MetricRow{{Reason: 133, ReasonText: "Policy denied", Packets: 3}}, nil
}
func (k *fakeKernel) Run(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
func (k *fakeKernel) Close() error                  { return nil }

func (k *fakeKernel) isEnabled(ip netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, b := range k.endpoints {
		if b.IPv4 == ip && k.enabled[id] {
			return true
		}
	}
	return false
}

func (k *fakeKernel) fail(method string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse[method] = err
}

// lab is one node with an agent that can be stopped and started.
type lab struct {
	t       testing.TB
	dir     string
	cluster *fakeCluster
	kernel  *fakeKernel
	agent   *Agent
	client  rpc.Client
	stop    func() error
	mode    atomic.Value // enable-policy of the latest engine
	hostIPs []netip.Addr
	rest    string       // ipam-rest; "": the default
	audit   atomic.Bool  // audit mode of the latest engine
	audited atomic.Int32 // endpoints in audit mode in its latest input
}

func newLab(t testing.TB) *lab {
	dir := t.TempDir()
	return &lab{t: t, dir: dir, cluster: newFakeCluster(), kernel: newFakeKernel(t), hostIPs: addrs("172.30.0.11"), client: rpc.Client{Socket: filepath.Join(dir, "s.sock")}}
}

func (l *lab) options() Options {
	if l.rest == "" {
		l.rest = "30s"
	}
	o, err := Load(Sources{Flags: map[string]string{
		"ipam-rest": l.rest, "node-name": "n1", "enable-ipv6": "true", "state-dir": l.dir, "socket-path": l.client.Socket,
		"write-cni-conf-when-ready": filepath.Join(l.dir, "net.d", "05-stentor.conflist"),
		"cluster-health-port":       "0", "agent-health-port": "0", "cni-add-timeout": "20s",
	}})
	if err != nil {
		l.t.Fatal(err)
	}
	return o
}

// start runs an agent and waits until pods can be attached.
func (l *lab) start() *lab {
	l.launch()
	l.await("the agent is ready", func() bool { return isClosed(l.agent.ready) })
	return l
}

func (l *lab) launch() {
	l.t.Helper()
	l.agent = newAgent(slog.New(slog.NewTextHandler(io.Discard, nil)), l.options(), world{
		cluster:       l.cluster,
		askEvery:      20 * time.Millisecond,
		hostAddresses: func() ([]netip.Addr, error) { return l.hostIPs, nil },
		startDatapath: func(context.Context, place) (Datapath, error) { return l.kernel, nil },
		newEngine: func(o policy.Options, s policy.State, _ Engine) (Engine, error) {
			l.mode.Store(o.Enforcement)
			l.audit.Store(o.Audit)
			return &fakeEngine{rows: s.Endpoints, audited: &l.audited}, nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.agent.Run(ctx) }()
	stopped := false
	l.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	l.t.Cleanup(func() {
		if err := l.stop(); err != nil {
			l.t.Errorf("agent: %v", err)
		}
	})
	<-l.cluster.started
}

// restart kills the agent and starts another on the same node.
func (l *lab) restart() {
	l.t.Helper()
	if err := l.stop(); err != nil {
		l.t.Fatal(err)
	}
	old := l.cluster
	l.cluster = newFakeCluster()
	l.cluster.pods, l.cluster.taken, l.cluster.stored = old.pods, old.taken, old.stored
	pods, ids := rowsOf(l.agent.tables.pods), rowsOf(l.agent.tables.identities)
	l.launch()
	l.cluster.raw.Pods.Upsert(pods...)
	l.cluster.raw.Identities.Upsert(ids...)
	l.await("the agent is ready", func() bool { return isClosed(l.agent.ready) })
}

// await polls a condition: what it waits for has no channel of its own.
func (l *lab) await(what string, cond func() bool) {
	l.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			l.t.Fatalf("waited in vain until %s; checks: %+v", what, rowsOf(l.agent.tables.checks))
		}
	}
}

func pod(name string, labels ...string) endpoint.Pod {
	p := endpoint.Pod{Namespace: "default", Name: name, UID: "uid-" + name, NodeName: "n1", ServiceAccount: "default", Labels: map[string]string{}}
	for i := 0; i+1 < len(labels); i += 2 {
		p.Labels[labels[i]] = labels[i+1]
	}
	return p
}

// bind puts a pod onto the node, as the scheduler does.
func (l *lab) bind(p endpoint.Pod) {
	l.cluster.mu.Lock()
	l.cluster.pods[p.Key()] = p
	l.cluster.mu.Unlock()
	l.cluster.raw.Pods.Upsert(p)
}

// netns is the path of a pod's network namespace; it is there from the first request on.
func (l *lab) netns(p endpoint.Pod) string { return filepath.Join(l.dir, "netns", p.Name) }

func (l *lab) request(p endpoint.Pod) rest.CNIRequest {
	if err := file.Write(l.netns(p), nil, 0o644); err != nil {
		l.t.Fatal(err)
	}
	return rest.CNIRequest{
		ContainerID: "c-" + p.Name, IfName: "eth0", NetNS: l.netns(p),
		PodNamespace: p.Namespace, PodName: p.Name, PodUID: p.UID,
	}
}

func (l *lab) add(p endpoint.Pod) (rest.CNIResult, error) {
	var out rest.CNIResult
	err := l.client.Call(context.Background(), "PUT", rest.PathCNIAdd, l.request(p), &out)
	return out, err
}

func (l *lab) mustAdd(p endpoint.Pod) rest.CNIResult {
	l.t.Helper()
	out, err := l.add(p)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func (l *lab) del(p endpoint.Pod) error {
	return l.client.Call(context.Background(), "PUT", rest.PathCNIDel, l.request(p), nil)
}

func code(err error) int {
	var e *rpc.Error
	if !errors.As(err, &e) {
		return -1
	}
	var c rest.CNIError
	if json.Unmarshal(e.Body, &c) != nil {
		return -2
	}
	return c.Code
}
