// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
	"github.com/stentor-net/stentor/internal/node"
)

func (l *lab) check(name string) rest.Check {
	c, _ := l.agent.tables.checks.Get(name)
	return c
}

// says waits until a part of the agent says all of the texts.
func (l *lab) says(part, state string, texts ...string) {
	l.t.Helper()
	l.await(fmt.Sprint(part, " says ", texts), func() bool {
		c := l.check(part)
		for _, text := range texts {
			if !strings.Contains(c.Msg, text) {
				return false
			}
		}
		return c.State == state
	})
}

func (c *fakeCluster) setDown(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = err
}

func TestAnExhaustedPoolRefusesAndRecovers(t *testing.T) {
	l := newLab(t)
	l.cluster.ranges = prefixes("10.0.1.0/30", "fd00:1::/120") // network, router, one pod, broadcast
	l.rest = "1ms"
	l.start()
	first, second := pod("first"), pod("second")
	l.bind(first)
	l.bind(second)
	had := l.mustAdd(first)
	_, err := l.add(second)
	if code(err) != rest.CNINoAddress || !strings.Contains(err.Error(), "10.0.1.0/30") {
		t.Fatalf("got %v, want the code %d and the range", err, rest.CNINoAddress)
	}
	if n := l.agent.tables.endpoints.Snapshot().Len(); n != 1 || len(l.kernel.links) != 1 {
		t.Errorf("%d endpoints and %d links after the refusal", n, len(l.kernel.links))
	}
	if !l.kernel.isEnabled(netip.MustParsePrefix(had.Addresses[0].Address).Addr()) {
		t.Error("the refusal closed the pod that has the address")
	}
	if err := l.del(first); err != nil {
		t.Fatal(err)
	}
	l.await("the address is free again", func() bool { _, err = l.add(second); return err == nil })
}

func TestAnAgentThatStartsWithoutTheAPIServerSaysWhatItWaitsFor(t *testing.T) {
	l := newLab(t)
	l.cluster.setDown(errors.New("connect: connection refused"))
	l.launch()
	l.says("kubernetes", rest.StateFailure, "connection refused")
	l.says("node", rest.StateFailure, "read the Node object", "connection refused")
	curl := pod("curl")
	l.bind(curl)
	if _, err := l.add(curl); code(err) != rest.CNITryAgain || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("ADD meanwhile: %v", err)
	}
	if err := l.agent.healthy(); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("healthz says %v", err)
	}
	l.cluster.setDown(nil)
	l.await("the agent is ready", func() bool { return isClosed(l.agent.ready) })
	l.mustAdd(curl)
}

func TestAnAgentGoesOnWithoutTheAPIServer(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl", "app", "a")
	l.bind(curl)
	has := l.mustAdd(curl)
	l.cluster.setDown(errors.New("connect: connection refused"))
	l.says("kubernetes", rest.StateFailure, "connection refused")
	if err := l.agent.healthy(); err != nil {
		t.Errorf("the agent asks to be started again: %v", err)
	}
	twin := pod("twin", "app", "a") // its identity is known
	l.bind(twin)
	l.mustAdd(twin)
	if err := l.del(twin); err != nil {
		t.Errorf("DEL: %v", err)
	}
	if !l.kernel.isEnabled(netip.MustParsePrefix(has.Addresses[0].Address).Addr()) {
		t.Error("the pod is cut off")
	}
	l.cluster.setDown(nil)
	l.says("kubernetes", rest.StateOk, "v1.36.3")
}

func TestAStateDirectoryThatCannotBeWrittenIsNamed(t *testing.T) {
	nstest.RequireRoot(t)
	run := func(t *testing.T, dir string) error {
		l := newLab(t)
		o := l.options()
		o.RunDir = dir
		a := newAgent(slog.New(slog.DiscardHandler), o, world{
			cluster: l.cluster, hostAddresses: func() ([]netip.Addr, error) { return l.hostIPs, nil },
			startDatapath: func(context.Context, place) (Datapath, error) { return l.kernel, nil },
			newEngine:     newPolicyEngine,
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := a.Run(ctx)
		if ctx.Err() != nil {
			t.Error("the agent goes on without a place for its state")
		}
		return err
	}
	t.Run("read-only file system", func(t *testing.T) {
		dir := t.TempDir()
		if err := unix.Mount("ro", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		}()
		if err := run(t, dir); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "read-only") || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want one line with the directory", err)
		}
	})
	t.Run("a file in its place", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(t, file); err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want one line with the file", err)
		}
	})
}

func TestAnAddThatCannotBeSavedLeavesNothing(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl")
	l.bind(curl)
	state := filepath.Join(l.dir, "state", "endpoints")
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.add(curl); code(err) != rest.CNIFailed || !strings.Contains(err.Error(), "save endpoint") {
		t.Errorf("got %v", err)
	}
	if len(l.kernel.links) != 0 || len(l.kernel.enabled) != 0 {
		t.Errorf("links %v, open %v", l.kernel.links, l.kernel.enabled)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	l.mustAdd(curl)
}

func TestADeletionOfWhatWasNeverAddedIsDone(t *testing.T) {
	l := newLab(t).start()
	if err := l.del(pod("stranger")); err != nil {
		t.Error(err)
	}
}

func TestGarbageOnTheSocketIsRefusedAndHarmsNobody(t *testing.T) {
	l := newLab(t).start()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", l.client.Socket)
	}}}
	for _, body := range []string{"", "{", "[1,2]", `"ADD"`, "\x00\xff", `{"containerID":7}`, `{}`, strings.Repeat("[", 20000)} {
		for _, path := range []string{rest.PathCNIAdd, rest.PathCNICheck} {
			q, err := http.NewRequestWithContext(t.Context(), "PUT", "http://agent"+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r, err := web.Do(q)
			if err != nil {
				t.Fatalf("%s with %.20q: %v", path, body, err)
			}
			answer, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || r.StatusCode < 400 || len(answer) == 0 {
				t.Errorf("%s with %.20q: status %d, %q, %v", path, body, r.StatusCode, answer, err)
			}
		}
	}
	curl := pod("curl")
	l.bind(curl)
	l.mustAdd(curl)
}

func TestASecondMachineWithTheNameOfANodeTakesNothing(t *testing.T) {
	l := newLab(t)
	l.hostIPs = addrs("172.30.0.99")
	l.launch()
	l.says("node", rest.StateFailure, "172.30.0.11", "another machine", "node-name")
	l.cluster.mu.Lock()
	defer l.cluster.mu.Unlock()
	if rowsOf(l.agent.tables.nodes) != nil && len(rowsOf(l.agent.tables.nodes)) != 0 {
		t.Error("it has published the node as its own")
	}
}

func TestNodesThatClaimTheSameAreSettled(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	own := node.Node{Name: "n1", Created: at(3), InternalIP: addrs("172.30.0.11"), Router: addrs("10.0.1.1"), PodCIDRs: prefixes("10.0.1.0/24"), Local: true}
	old := node.Node{Name: "n2", Created: at(1), InternalIP: addrs("172.30.0.12"), ExternalIP: addrs("203.0.113.1"), Router: addrs("10.0.2.1"), PodCIDRs: prefixes("10.0.2.0/24")}
	other := node.Node{Name: "n3", Created: at(2), InternalIP: addrs("172.30.0.13"), ExternalIP: addrs("203.0.113.1"), Router: addrs("10.0.3.1"), PodCIDRs: prefixes("10.0.3.0/24")}
	for _, x := range []struct {
		what  string
		bad   node.Node
		want  []string // conflicts
		stays bool     // the node is known with what is left to it
	}{
		{"the InternalIP of an older node", node.Node{InternalIP: addrs("172.30.0.12")}, []string{"node a claims the address 172.30.0.12 of node n2"}, false},
		{"this node's InternalIP", node.Node{Created: at(0), InternalIP: addrs("172.30.0.11")}, []string{"node a claims the address 172.30.0.11 of node n1"}, false},
		{"one of two InternalIPs", node.Node{InternalIP: addrs("172.30.0.12", "fd30::9")}, []string{"node a claims the address 172.30.0.12 of node n2"}, true},
		{"a router address", node.Node{InternalIP: addrs("172.30.0.14"), Router: addrs("10.0.3.1")}, []string{"node a claims the router address 10.0.3.1 of node n3"}, true},
		{"the same pod range", node.Node{InternalIP: addrs("172.30.0.14"), PodCIDRs: prefixes("10.0.2.0/24")}, []string{"node a has the pod range 10.0.2.0/24, which overlaps 10.0.2.0/24 of node n2"}, true},
		{"a part of this node's pod range", node.Node{Created: at(0), InternalIP: addrs("172.30.0.14"), PodCIDRs: prefixes("10.0.1.128/25")}, []string{"node a has the pod range 10.0.1.128/25, which overlaps 10.0.1.0/24 of node n1"}, true},
		{"a range around all others", node.Node{InternalIP: addrs("172.30.0.14"), PodCIDRs: prefixes("10.0.0.0/8")}, []string{"node a has the pod range 10.0.0.0/8, which overlaps 10.0.1.0/24 of node n1"}, true},
		{"an ExternalIP, which a gateway gives to many", node.Node{InternalIP: addrs("172.30.0.14"), ExternalIP: addrs("203.0.113.1")}, nil, true},
	} {
		t.Run(x.what, func(t *testing.T) {
			x.bad.Name = "a"
			if x.bad.Created.IsZero() {
				x.bad.Created = at(9)
			}
			for _, order := range [][]node.Node{{x.bad, own, old, other}, {other, old, x.bad, own}} {
				got, conflicts := settleClaims(order)
				if strings.Join(conflicts, "\n") != strings.Join(x.want, "\n") {
					t.Errorf("conflicts %q, want %q", conflicts, x.want)
				}
				stays := false
				for _, n := range got {
					switch {
					case n.Name == "a":
						stays = true
						if len(n.PodCIDRs) > 0 || len(n.Router) > 0 {
							t.Errorf("it keeps %+v", n)
						}
					case len(n.InternalIP) != 1 || len(n.Router) != 1 || len(n.PodCIDRs) != 1:
						t.Errorf("%s lost something: %+v", n.Name, n)
					}
				}
				if stays != x.stays || len(got) < 3 {
					t.Errorf("%d nodes are left, a among them: %v", len(got), stays)
				}
			}
		})
	}
}

func TestTwoNodesWithOneAddressOrRangeAreReported(t *testing.T) {
	l := newLab(t).start()
	l.says("nodes", rest.StateOk, "1 known")
	l.cluster.raw.Nodes.Upsert(
		node.Node{Name: "n2", Created: time.Unix(1, 0), InternalIP: addrs("172.30.0.12"), PodCIDRs: prefixes("10.0.2.0/24")},
		node.Node{Name: "n3", Created: time.Unix(2, 0), InternalIP: addrs("172.30.0.12"), PodCIDRs: prefixes("10.0.2.0/25")})
	l.says("nodes", rest.StateWarning, "node n3 claims the address 172.30.0.12 of node n2", "10.0.2.0/25")
	if a, ok := l.agent.tables.addresses.Get("10.0.2.0/24"); !ok || a.Name != "n2" {
		t.Errorf("the range leads to %+v", a)
	}
	l.kernel.mu.Lock()
	for _, row := range l.kernel.nodes {
		if row.Index != localNode && row.Underlay != addrs("172.30.0.12")[0] {
			t.Errorf("the kernel has %+v", row)
		}
	}
	if len(l.kernel.nodes) != 2 {
		t.Errorf("the kernel has %d nodes, want this one and n2", len(l.kernel.nodes))
	}
	l.kernel.mu.Unlock()
	l.cluster.raw.Nodes.Upsert(node.Node{Name: "n3", Created: time.Unix(2, 0), InternalIP: addrs("172.30.0.13"), PodCIDRs: prefixes("10.0.3.0/24")})
	l.says("nodes", rest.StateOk, "3 known")
}

func TestFiftyPodsAtOnceGetAddressesOfTheirOwnAndWork(t *testing.T) {
	const count = 50
	c := newRealCluster(t, RoutingTunnel)
	n, far := c.nodes[0], c.nodes[1].pod("far", `{"app":"far"}`)
	pods := make([]*realPod, count)
	for i := range pods {
		pods[i] = n.bare(fmt.Sprint("p", i), `{"app":"many"}`)
	}
	var wg sync.WaitGroup
	errs := make([]error, count)
	for i, p := range pods {
		wg.Go(func() { errs[i] = n.attach(p) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]string{}
	for _, p := range pods {
		for _, a := range []netip.Addr{p.ip4, p.ip6} {
			if other, twice := seen[a]; twice {
				t.Errorf("%s and %s have %s", other, p.req.PodName, a)
			}
			seen[a] = p.req.PodName
		}
	}
	for i, p := range pods {
		for what, to := range map[string]netip.Addr{"the next pod": pods[(i+1)%count].ip4, "the next pod by IPv6": pods[(i+1)%count].ip6, "the other node": far.ip4} {
			c.reaches(p.req.PodName+" to "+what, p, to, true)
		}
	}
	again := *pods[0]
	if err := n.attach(&again); err != nil || again.ip4 != pods[0].ip4 || again.ip6 != pods[0].ip6 {
		t.Errorf("ADD again gives %s and %s, was %s and %s; %v", again.ip4, again.ip6, pods[0].ip4, pods[0].ip6, err)
	}
	c.reaches("after ADD again", pods[0], far.ip4, true)
	for i, p := range pods {
		wg.Go(func() {
			for range 2 { // the runtime repeats DEL
				errs[i] = errors.Join(errs[i], n.client.Call(context.Background(), "PUT", rest.PathCNIDel, p.req, nil))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if left := n.agent.tables.endpoints.Snapshot().Len(); left != 0 {
		t.Errorf("%d endpoints are left", left)
	}
}

func TestAnInvalidPolicyHarmsNoOther(t *testing.T) {
	c := newRealCluster(t, RoutingTunnel)
	deathstar := c.nodes[0].pod("deathstar", `{"org":"empire","class":"deathstar"}`)
	tie := c.nodes[0].pod("tie", `{"org":"empire"}`)
	xwing := c.nodes[1].pod("xwing", `{"org":"alliance"}`)
	const policies = "apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/"
	bad := map[string]string{
		"port":     `{"spec":{"endpointSelector":{},"ingress":[{"toPorts":[{"ports":[{"port":"70000","protocol":"TCP"}]}]}]}}`,
		"selector": `{"spec":{"endpointSelector":{"matchExpressions":[{"key":"a","operator":"Perhaps"}]},"ingress":[{}]}}`,
		"type":     `{"spec":{"endpointSelector":"everything"}}`,
		"prefix":   `{"spec":{"endpointSelector":{},"egress":[{"toCIDR":["10.0.0.0/99"]}]}}`,
	}
	for name, text := range bad {
		c.api.Put(policies+name, text)
	}
	c.api.Put(policies+"rule1", onlyEmpire)
	c.reaches("alliance", xwing, deathstar.ip4, false)
	c.reaches("empire", tie, deathstar.ip4, true)
	n := c.nodes[0]
	n.await("each of the invalid ones is named", func() bool {
		check, _ := n.agent.tables.checks.Get("policy")
		invalid := 0
		for _, o := range rowsOf(n.agent.tables.verdicts) {
			if !o.Valid && o.Reason != "" {
				invalid++
			}
		}
		return check.State == rest.StateWarning && strings.Contains(check.Msg, fmt.Sprint(len(bad))) && invalid == len(bad)
	})
	c.api.Remove(policies + "rule1")
	c.reaches("without the valid one", xwing, deathstar.ip4, true)
}

// TestPolicyIsEnforcedWhileTheAPIServerIsAway cuts both agents off from it.
func TestPolicyIsEnforcedWhileTheAPIServerIsAway(t *testing.T) {
	c := newRealCluster(t, RoutingTunnel)
	deathstar := c.nodes[0].pod("deathstar", `{"org":"empire","class":"deathstar"}`)
	tie := c.nodes[1].pod("tie", `{"org":"empire"}`)
	xwing := c.nodes[1].pod("xwing", `{"org":"alliance"}`)
	c.api.Put("apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/rule1", onlyEmpire)
	c.reaches("alliance", xwing, deathstar.ip4, false)
	c.api.Fail(func(_, _ string) bool { return true })
	n := c.nodes[0]
	(&lab{t: t, agent: n.agent}).says("kubernetes", rest.StateFailure)
	c.reaches("alliance, without the API server", xwing, deathstar.ip4, false)
	c.reaches("empire, without the API server", tie, deathstar.ip4, true)
	c.api.Fail(nil)
	(&lab{t: t, agent: n.agent}).says("kubernetes", rest.StateOk)
	c.nodes[1].label("xwing", `{"org":"empire"}`)
	c.reaches("news after it is back", xwing, deathstar.ip4, true)
}
