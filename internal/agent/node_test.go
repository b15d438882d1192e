// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
	"github.com/stentor-net/stentor/internal/rpc"
	"github.com/stentor-net/stentor/internal/service"
)

// realCluster is two nodes with real agents, engines and datapaths over an API
// server in memory; each node and each pod is a network namespace.
type realCluster struct {
	t     *testing.T
	api   *k8stest.Server
	nodes [2]*realNode
}

type realNode struct {
	*nstest.Namespace
	c      *realCluster
	n      int
	opts   Options
	client rpc.Client
	agent  *Agent
	stop   func() error
}

type realPod struct {
	*nstest.Namespace
	ip4, ip6 netip.Addr
	req      rest.CNIRequest
}

// newRealCluster starts both nodes; ranges are the pod ranges as JSON texts, with
// the node's number for %d.
func newRealCluster(t *testing.T, routing string) *realCluster {
	return newRealClusterWith(t, routing, `"10.50.%[1]d.0/24","fd50:%[1]d::/64"`)
}

func newRealClusterWith(t *testing.T, routing, ranges string) *realCluster {
	nstest.RequireRoot(t)
	c := &realCluster{t: t, api: k8stest.New(t)}
	c.api.Put("api/v1/namespaces/default", `{"metadata":{"labels":{"kubernetes.io/metadata.name":"default"}}}`)
	fabric := nstest.New(t, "fab")
	fabric.Run(t, "ip link add br0 type bridge\nip link set br0 up")
	bpf := nstest.BPFDir(t)
	for i := range c.nodes {
		n := &realNode{Namespace: nstest.New(t, fmt.Sprintf("n%d", i+1)), c: c, n: i + 1}
		fabric.Run(t, fmt.Sprintf("ip link add p%d type veth peer name eth0 netns %s\nip link set p%d master br0 up", n.n, n.Name, n.n))
		n.Run(t, fmt.Sprintf("ip link set eth0 up\nip addr add 172.30.0.%d/24 dev eth0\nip addr add fd30::%d/64 dev eth0 nodad\nip route add default via 172.30.0.100", n.n, n.n))
		dir := t.TempDir()
		var err error
		n.opts, err = Load(Sources{Flags: map[string]string{
			"node-name": fmt.Sprint("n", n.n), "enable-ipv6": "true", "ipam": "kubernetes", "routing-mode": routing,
			"auto-direct-node-routes": fmt.Sprint(routing == RoutingNative), "bpf-root": filepath.Join(bpf, n.Name),
			"state-dir": dir, "socket-path": filepath.Join(dir, "s.sock"), "write-cni-conf-when-ready": "", "cluster-health-port": "0", "agent-health-port": "0",
			"bpf-lb-sock": "false", "ipam-rest": "1ms",
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(n.opts.BPFRoot, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			n.Do(func() {
				if err := Cleanup(context.Background(), n.opts); err != nil {
					t.Error(err)
				}
			})
			os.Remove(n.opts.BPFRoot)
		})
		n.client = rpc.Client{Socket: n.opts.SocketPath}
		c.api.Put(fmt.Sprintf("api/v1/nodes/n%d", n.n), fmt.Sprintf(`{"spec":{"podCIDRs":[`+ranges+`]},
			"status":{"addresses":[{"type":"InternalIP","address":"172.30.0.%[1]d"},{"type":"InternalIP","address":"fd30::%[1]d"}]}}`, n.n))
		c.nodes[i] = n
		n.start()
	}
	for _, n := range c.nodes {
		n.await("the node knows the other", func() bool {
			other, ok := n.agent.tables.nodes.Get(fmt.Sprint("n", 3-n.n))
			_, routed := n.agent.tables.addresses.Get(fmt.Sprintf("10.50.%d.1/32", 3-n.n))
			return ok && len(other.Router) == 2 && routed
		})
	}
	return c
}

// inNamespace calls the datapath on the thread of the node.
type inNamespace struct {
	*datapath.Datapath
	n *realNode
}

func (d inNamespace) do(f func() error) (err error) {
	<-d.n.Go(func() { err = f() }) // several at once, as in an agent
	return err
}
func (d inNamespace) AddPodLink(ctx context.Context, l *PodLink) error {
	return d.do(func() error { return d.Datapath.AddPodLink(ctx, l) })
}
func (d inNamespace) CheckPodLink(ctx context.Context, l PodLink) error {
	return d.do(func() error { return d.Datapath.CheckPodLink(ctx, l) })
}
func (d inNamespace) DelPodLink(ctx context.Context, l PodLink) error {
	return d.do(func() error { return d.Datapath.DelPodLink(ctx, l) })
}
func (d inNamespace) PutEndpoint(b EndpointBase) error {
	return d.do(func() error { return d.Datapath.PutEndpoint(b) })
}
func (d inNamespace) SetNodes(rows []NodeRow) error {
	return d.do(func() error { return d.Datapath.SetNodes(rows) })
}
func (d inNamespace) SetFrontends(list []service.Frontend) error {
	return d.do(func() error { return d.Datapath.SetFrontends(list) })
}

func (d inNamespace) ChangeFrontends(put []service.Frontend, remove []service.FrontendKey) error {
	return d.do(func() error { return d.Datapath.ChangeFrontends(put, remove) })
}
func (d inNamespace) Run(ctx context.Context) (err error) {
	<-d.n.Go(func() { err = d.Datapath.Run(ctx) })
	return err
}

func (n *realNode) start() {
	t := n.c.t
	t.Helper()
	level := slog.LevelError
	if os.Getenv("STENTOR_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: level}))
	n.agent = newAgent(log, n.opts, world{
		cluster: &kubeCluster{client: n.c.api.Client(), node: n.opts.NodeName},
		startDatapath: func(ctx context.Context, p place) (dp Datapath, err error) {
			n.Do(func() {
				var d *datapath.Datapath
				if d, err = datapath.Start(ctx, log, n.opts.datapathConfig(p)); err == nil {
					dp = inNamespace{d, n}
				}
			})
			return dp, err
		},
		newEngine: newPolicyEngine,
		askEvery:  100 * time.Millisecond,
		hostAddresses: func() (out []netip.Addr, err error) {
			n.Do(func() { out, err = interfaceAddresses() })
			return out, err
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.agent.Run(ctx) }()
	stopped := false
	n.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	ended := context.AfterFunc(ctx, func() {})
	defer ended()
	n.await("the agent is ready", func() bool {
		select {
		case err := <-done:
			t.Fatalf("agent of node %d: %v", n.n, err)
		default:
		}
		return isClosed(n.agent.ready)
	})
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	return os.Stderr.Write(b)
}

func (n *realNode) await(what string, cond func() bool) {
	n.c.t.Helper()
	l := lab{t: n.c.t, agent: n.agent}
	l.await(what, cond)
}

// pod makes a pod on the node as kubelet does.
func (n *realNode) pod(name, labels string) *realPod {
	t := n.c.t
	t.Helper()
	p := n.bare(name, labels)
	if err := n.attach(p); err != nil {
		t.Fatal(err)
	}
	return p
}

// bare is a pod that has no interface yet.
func (n *realNode) bare(name, labels string) *realPod {
	n.c.t.Helper()
	p := &realPod{Namespace: nstest.New(n.c.t, name)}
	n.label(name, labels)
	uid, _ := n.c.api.Object("api/v1/namespaces/default/pods/" + name)["metadata"].(map[string]any)["uid"].(string)
	p.req = rest.CNIRequest{ContainerID: "c-" + name, IfName: "eth0", NetNS: p.Path, PodNamespace: "default", PodName: name, PodUID: uid}
	return p
}

// attach is CNI ADD.
func (n *realNode) attach(p *realPod) error {
	var got rest.CNIResult
	if err := n.client.Call(context.Background(), "PUT", rest.PathCNIAdd, p.req, &got); err != nil {
		return err
	}
	p.ip4, p.ip6 = netip.MustParsePrefix(got.Addresses[0].Address).Addr(), netip.MustParsePrefix(got.Addresses[1].Address).Addr()
	return nil
}

func (n *realNode) label(name, labels string) {
	n.c.api.Put("api/v1/namespaces/default/pods/"+name, fmt.Sprintf(`{"metadata":{"labels":%s},"spec":{"nodeName":"n%d","serviceAccountName":"default"}}`, labels, n.n))
}

// reaches tries until the answer is as wanted: news travel between nodes.
func (c *realCluster) reaches(what string, from *realPod, to netip.Addr, want bool) {
	c.t.Helper()
	var err error
	for start := time.Now(); time.Since(start) < 3*time.Second; {
		if err = from.Ping(to, 150*time.Millisecond); (err == nil) == want {
			return
		}
	}
	c.t.Errorf("%s: reaching %s is %v, want %v", what, to, err == nil, want)
}

const onlyEmpire = `{"spec":{"endpointSelector":{"matchLabels":{"org":"empire","class":"deathstar"}},
	"ingress":[{"fromEndpoints":[{"matchLabels":{"org":"empire"}}]}]}}`

func TestPodsOfTwoNodesTalkAsPolicySays(t *testing.T) {
	for _, routing := range []string{RoutingTunnel, RoutingNative} {
		t.Run(routing, func(t *testing.T) {
			c := newRealCluster(t, routing)
			deathstar := c.nodes[0].pod("deathstar", `{"org":"empire","class":"deathstar"}`)
			near := c.nodes[0].pod("tiefighter", `{"org":"empire"}`)
			far := c.nodes[1].pod("xwing", `{"org":"alliance"}`)
			for _, to := range []netip.Addr{deathstar.ip4, deathstar.ip6} {
				c.reaches("same node", near, to, true)
				c.reaches("cross node", far, to, true)
			}
			c.api.Put("apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/rule1", onlyEmpire)
			for _, to := range []netip.Addr{deathstar.ip4, deathstar.ip6} {
				c.reaches("empire", near, to, true)
				c.reaches("alliance", far, to, false)
			}
			c.nodes[1].label("xwing", `{"org":"empire"}`)
			c.reaches("after the label changed", far, deathstar.ip4, true)
			c.nodes[1].label("xwing", `{"org":"alliance"}`)
			c.reaches("after it changed back", far, deathstar.ip4, false)
			c.api.Remove("apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/rule1")
			c.reaches("without the policy", far, deathstar.ip4, true)
		})
	}
}

func TestTrafficGoesOnWhileAnAgentRestarts(t *testing.T) {
	c := newRealCluster(t, RoutingTunnel)
	a := c.nodes[0].pod("a", `{"app":"a"}`)
	b := c.nodes[1].pod("b", `{"app":"b"}`)
	c.reaches("before", a, b.ip4, true)
	s := a.PingStream(b.ip4, 10*time.Millisecond)
	n := c.nodes[1]
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.await("the endpoint is adopted", func() bool {
		e, ok := n.agent.endpoints.find("c-b", "eth0")
		return ok && e.State == "ready"
	})
	s.Stop()
	if s.Err != nil || s.Received != s.Sent {
		t.Errorf("%d of %d came back, %v", s.Received, s.Sent, s.Err)
	}
	if err := n.client.Call(t.Context(), "PUT", rest.PathCNIDel, b.req, nil); err != nil {
		t.Fatal(err)
	}
	c.reaches("after DEL", a, b.ip4, false)
}

func TestAReusedAddressDoesNotInheritAVerdict(t *testing.T) {
	c := newRealClusterWith(t, RoutingTunnel, `"10.50.%[1]d.0/30","fd50:%[1]d::/126"`) // one IPv4 address for pods
	deathstar := c.nodes[0].pod("deathstar", `{"org":"empire","class":"deathstar"}`)
	c.api.Put("apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/rule1", onlyEmpire)
	tie := c.nodes[1].pod("tie", `{"org":"empire"}`)
	c.reaches("empire", tie, deathstar.ip4, true)
	stream := deathstar.PingStream(tie.ip4, 5*time.Millisecond) // the address is in use all the time
	defer stream.Stop()
	if err := c.nodes[1].client.Call(t.Context(), "PUT", rest.PathCNIDel, tie.req, nil); err != nil {
		t.Fatal(err)
	}
	xwing := c.nodes[1].pod("xwing", `{"org":"alliance"}`)
	if xwing.ip4 != tie.ip4 {
		t.Fatalf("the address was not reused: %s, %s", tie.ip4, xwing.ip4)
	}
	for range 20 {
		if xwing.Ping(deathstar.ip4, 50*time.Millisecond) == nil {
			t.Fatal("the pod came through by the verdict of the pod that had its address")
		}
	}
}
