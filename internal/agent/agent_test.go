// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cni/rundir"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/service"
)

func firstIP(r rest.CNIResult) netip.Addr {
	return netip.MustParsePrefix(r.Addresses[0].Address).Addr()
}

func TestAddAnswersWithAddressesAndAnOpenEndpoint(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl", "app", "curl")
	l.bind(curl)
	got := l.mustAdd(curl)
	want := rest.CNIResult{
		HostIfName: got.HostIfName, HostMAC: "02:01:00:00:00:01", MAC: "02:00:00:00:00:01", MTU: 1450,
		EndpointID: got.EndpointID, Identity: got.Identity,
		Addresses: []rest.CNIAddress{{Address: "10.0.1.2/32", Gateway: "10.0.1.1"}, {Address: "fd00:1::2/128", Gateway: "fd00:1::1"}},
		Routes: []rest.CNIRoute{
			{Dst: "10.0.1.1/32"}, {Dst: "0.0.0.0/0", GW: "10.0.1.1", MTU: 1450},
			{Dst: "fd00:1::1/128"}, {Dst: "::/0", GW: "fd00:1::1", MTU: 1450},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if !l.kernel.isEnabled(netip.MustParseAddr("10.0.1.2")) {
		t.Error("ADD came back before the endpoint was open")
	}
	if got.Identity < int64(identity.MinAllocated) {
		t.Errorf("identity %d", got.Identity)
	}
	again := l.mustAdd(curl)
	if d := cmp.Diff(got, again); d != "" {
		t.Errorf("the same ADD again: %s", d)
	}
}

func TestAPodThatTheWatchHasNotShownIsFetched(t *testing.T) {
	l := newLab(t).start()
	late := pod("late", "app", "late")
	l.cluster.mu.Lock()
	l.cluster.pods[late.Key()] = late
	l.cluster.mu.Unlock()
	got := l.mustAdd(late)
	labels, ok := l.agent.ids.known()[identity.ID(got.Identity)].Get("k8s", "app")
	if !ok || labels != "late" {
		t.Errorf("identity %d does not have the pod's labels", got.Identity)
	}
}

func TestAddOfAPodThatDoesNotExistIsRefused(t *testing.T) {
	l := newLab(t).start()
	if _, err := l.add(pod("ghost")); code(err) != rest.CNIUnknownContainer {
		t.Errorf("got %v", err)
	}
	replaced := pod("curl")
	l.bind(replaced)
	replaced.UID = "older"
	if _, err := l.add(replaced); code(err) != rest.CNIUnknownContainer {
		t.Errorf("a pod of the same name: %v", err)
	}
}

func TestAStaticPodIsKnownByTheHashOfItsFile(t *testing.T) {
	l := newLab(t).start()
	static := pod("static")
	static.Annotations = map[string]string{"kubernetes.io/config.hash": "hash"}
	l.bind(static)
	asRuntime := static
	asRuntime.UID = "hash"
	l.mustAdd(asRuntime)
	if e, _ := l.agent.endpoints.find("c-static", "eth0"); e.PodUID != static.UID {
		t.Errorf("the endpoint belongs to %q", e.PodUID)
	}
}

func TestAddAsksToTryAgainWhileTheAPIServerIsAway(t *testing.T) {
	l := newLab(t).start()
	l.cluster.mu.Lock()
	l.cluster.down = errors.New("connection refused")
	l.cluster.mu.Unlock()
	if _, err := l.add(pod("late")); code(err) != rest.CNITryAgain {
		t.Errorf("got %v", err)
	}
	l.bind(pod("known", "app", "new"))
	if _, err := l.add(pod("known", "app", "new")); code(err) != rest.CNITryAgain {
		t.Errorf("a pod without identity: %v", err)
	}
}

func TestAnIdentityIsMadeWhenThePodIsBound(t *testing.T) {
	l := newLab(t).start()
	l.bind(pod("curl", "app", "curl"))
	l.await("the identity is made", func() bool { return l.agent.tables.identities.Snapshot().Len() == 1 })
	l.bind(pod("other", "app", "curl"))
	l.mustAdd(pod("other", "app", "curl"))
	l.cluster.mu.Lock()
	defer l.cluster.mu.Unlock()
	if l.cluster.creates != 1 {
		t.Errorf("%d identities were made for one label set", l.cluster.creates)
	}
}

func TestAFailedAddLeavesNothing(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl")
	l.bind(curl)
	l.kernel.fail("PutEndpoint", errors.New("no room"))
	if _, err := l.add(curl); code(err) != rest.CNIFailed || !strings.Contains(err.Error(), "no room") {
		t.Fatalf("got %v", err)
	}
	if len(l.kernel.links) != 0 || l.agent.tables.endpoints.Snapshot().Len() != 0 || len(l.agent.endpoints.taken()) != 2 {
		t.Errorf("links %v, %d endpoints, addresses %v", l.kernel.links, l.agent.tables.endpoints.Snapshot().Len(), l.agent.endpoints.taken())
	}
	l.kernel.fail("PutEndpoint", nil)
	l.mustAdd(curl)
}

func TestPolicyThatCannotBeAppliedIsTriedAgain(t *testing.T) {
	l := newLab(t).start()
	l.kernel.fail("ApplyPolicy", errors.New("map is full"))
	curl := pod("curl")
	l.bind(curl)
	result := make(chan error, 1)
	go func() {
		_, err := l.add(curl)
		result <- err
	}()
	l.await("the failure is shown", func() bool {
		c, _ := l.agent.tables.checks.Get("policy")
		return c.State == rest.StateFailure && strings.Contains(c.Msg, "map is full")
	})
	l.kernel.fail("ApplyPolicy", nil)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestDelIsIdempotentAndKeepsTheAddressBack(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl")
	l.bind(curl)
	first := firstIP(l.mustAdd(curl))
	for range 2 {
		if err := l.del(curl); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.agent.tables.endpoints.Snapshot().Len(); n != 0 || len(l.kernel.links) != 0 || len(l.kernel.endpoints) != 0 {
		t.Errorf("%d endpoints, links %v, kernel %v", n, l.kernel.links, l.kernel.endpoints)
	}
	if second := firstIP(l.mustAdd(curl)); second == first {
		t.Errorf("%s came back at once", second)
	}
	flows := slices.IndexFunc(l.kernel.calls, func(c string) bool { return strings.HasPrefix(c, "RemoveEndpoint") })
	link := slices.IndexFunc(l.kernel.calls, func(c string) bool { return strings.HasPrefix(c, "DelPodLink") })
	if flows > link {
		t.Errorf("the link went before the flows: %v", l.kernel.calls)
	}
}

func TestARestartAdoptsEverything(t *testing.T) {
	l := newLab(t).start()
	curl, gone := pod("curl", "app", "curl"), pod("gone")
	l.bind(curl)
	l.bind(gone)
	before := l.mustAdd(curl)
	l.mustAdd(gone)
	l.kernel.mu.Lock()
	if err := os.Remove(l.netns(gone)); err != nil {
		t.Fatal(err)
	}
	calls := len(l.kernel.calls)
	l.kernel.endpoints[99] = EndpointBase{ID: 99, Incarnation: 5} // without state
	l.kernel.mu.Unlock()
	l.restart()
	l.kernel.mu.Lock()
	for _, c := range l.kernel.calls[calls:] {
		if strings.HasPrefix(c, "PutEndpoint") || strings.HasPrefix(c, "AddPodLink") {
			t.Errorf("a running pod was touched: %s", c)
		}
	}
	if len(l.kernel.endpoints) != 1 {
		t.Errorf("kernel has %v", l.kernel.endpoints)
	}
	l.kernel.mu.Unlock()
	l.await("the endpoint is ready again", func() bool {
		e, ok := l.agent.endpoints.find("c-curl", "eth0")
		return ok && e.State == endpoint.StateReady
	})
	if d := cmp.Diff(before, l.mustAdd(curl)); d != "" {
		t.Errorf("the same ADD after a restart: %s", d)
	}
	l.bind(pod("new"))
	if ip := firstIP(l.mustAdd(pod("new"))); ip == firstIP(before) {
		t.Errorf("%s was given out twice", ip)
	}
}

func TestAQueuedDeletionDoesNotHitTheNextAttachment(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl")
	l.bind(curl)
	l.mustAdd(curl)
	queue := rundir.Dir(l.dir)
	if err := queue.QueueDeletion(l.request(curl)); err != nil {
		t.Fatal(err)
	}
	l.mustAdd(curl)
	if n, err := queue.Deletions(); n != 0 || err != nil {
		t.Errorf("%d deletions wait for a pod that runs; %v", n, err)
	}
	if n := l.agent.tables.endpoints.Snapshot().Len(); n != 1 {
		t.Errorf("%d endpoints", n)
	}
}

func TestWhatARestartCannotRemoveKeepsItsNumberAndAddress(t *testing.T) {
	l := newLab(t).start()
	gone := pod("gone")
	l.bind(gone)
	before := l.mustAdd(gone)
	if err := os.Remove(l.netns(gone)); err != nil {
		t.Fatal(err)
	}
	l.kernel.fail("DelPodLink", errors.New("device is busy"))
	l.restart()
	e, ok := l.agent.endpoints.find("c-gone", "eth0")
	if !ok || int(e.ID) != before.EndpointID {
		t.Fatalf("its row is lost: %v", rowsOf(l.agent.tables.endpoints))
	}
	if _, taken := l.agent.endpoints.taken()[e.IPv4]; !taken {
		t.Errorf("%s can be given out again", e.IPv4)
	}
	l.kernel.fail("DelPodLink", nil)
	if err := l.client.Call(t.Context(), "PUT", rest.PathCNIDel, rest.CNIRequest{ContainerID: "c-gone", IfName: "eth0"}, nil); err != nil {
		t.Fatal(err)
	}
	if len(l.kernel.links) != 0 || l.agent.tables.endpoints.Snapshot().Len() != 0 {
		t.Errorf("left over: links %v, endpoints %v", l.kernel.links, rowsOf(l.agent.tables.endpoints))
	}
}

func TestAnAddAfterOneThatCouldNotBeUndoneStartsAfresh(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl")
	l.bind(curl)
	l.kernel.fail("PutEndpoint", errors.New("no room"))
	l.kernel.fail("DelPodLink", errors.New("device is busy"))
	if _, err := l.add(curl); code(err) != rest.CNIFailed {
		t.Fatalf("got %v", err)
	}
	l.kernel.fail("PutEndpoint", nil)
	l.kernel.fail("DelPodLink", nil)
	l.mustAdd(curl)
	if n := l.agent.tables.endpoints.Snapshot().Len(); n != 1 || len(l.kernel.links) != 1 {
		t.Errorf("%d endpoints, links %v", n, l.kernel.links)
	}
}

func TestDeletionsQueuedWhileTheAgentWasAwayAreCarriedOut(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl")
	l.bind(curl)
	l.mustAdd(curl)
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	if err := rundir.Dir(l.dir).QueueDeletion(l.request(curl)); err != nil {
		t.Fatal(err)
	}
	l.restart()
	l.await("the endpoint is gone", func() bool { return l.agent.tables.endpoints.Snapshot().Len() == 0 })
	l.await("the queue is empty", func() bool { n, _ := rundir.Dir(l.dir).Deletions(); return n == 0 })
}

func TestLabelsOfAPodAndItsNamespaceChangeItsIdentity(t *testing.T) {
	l := newLab(t).start()
	p := pod("xwing", "org", "alliance")
	l.bind(p)
	got := l.mustAdd(p)
	ip := firstIP(got)
	identityNow := func() identity.ID {
		e, _ := l.agent.endpoints.find("c-xwing", "eth0")
		a, _ := l.agent.tables.addresses.Get(host(ip).String())
		l.kernel.mu.Lock()
		defer l.kernel.mu.Unlock()
		if row := l.kernel.applied[e.ID]; row.Identity != e.Identity || a.Identity != e.Identity {
			return 0 // still on its way
		}
		return e.Identity
	}
	l.bind(pod("xwing", "org", "empire"))
	l.await("the pod has another identity", func() bool { id := identityNow(); return id != 0 && int64(id) != got.Identity })
	second := identityNow()
	l.cluster.raw.Namespaces.Upsert(identity.Namespace{Name: "default", Labels: map[string]string{"team": "red"}})
	l.await("the namespace's label counts", func() bool { id := identityNow(); return id != 0 && id != second })
	l.await("the object follows", func() bool {
		o := l.cluster.published("default/xwing")
		return o != nil && slices.Contains(o.Status.Identity.Labels, "k8s:io.cilium.k8s.namespace.labels.team=red")
	})
}

func TestTheLowerOfTwoNumbersOfALabelSetWins(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	l.bind(p)
	got := l.mustAdd(p)
	labels := l.agent.ids.known()[identity.ID(got.Identity)]
	lower := identity.ID(got.Identity - 1)
	l.cluster.raw.Identities.Upsert(identity.Identity{ID: lower, Labels: labels})
	l.await("the endpoint has the lower number", func() bool {
		e, _ := l.agent.endpoints.find("c-curl", "eth0")
		return e.Identity == lower
	})
}

func TestANumberThatTheOperatorIsAboutToRemoveIsKept(t *testing.T) {
	l := newLab(t).start()
	curl := pod("curl", "app", "curl")
	l.bind(curl)
	id := identity.ID(l.mustAdd(curl).Identity)
	row, _ := l.agent.tables.identities.Get(id.String())
	row.Unused = true
	l.cluster.raw.Identities.Upsert(row)
	l.await("the mark is gone", func() bool {
		row, _ := l.agent.tables.identities.Get(id.String())
		return !row.Unused
	})
}

func TestThePodsObjectIsPublishedAndRemoved(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	l.bind(p)
	got := l.mustAdd(p)
	l.await("the object says ready", func() bool {
		o := l.cluster.published("default/curl")
		return o != nil && o.Status.State == "ready"
	})
	o := l.cluster.published("default/curl")
	if o.Status.ID != int64(got.EndpointID) || o.Status.Networking.NodeIP != "172.30.0.11" || o.Status.Networking.Addressing[0].IPV4 != "10.0.1.2" ||
		o.Status.Policy.Ingress.State != "<status disabled>" || o.OwnerReferences[0].UID != "uid-curl" {
		t.Errorf("got %+v", o.Status)
	}
	if err := l.del(p); err != nil {
		t.Fatal(err)
	}
	l.await("the object is gone", func() bool { return l.cluster.published("default/curl") == nil })
}

func TestObjectsOfPodsThatWentWhileNoAgentRanAreRemoved(t *testing.T) {
	l := newLab(t).start()
	for name, nodeIP := range map[string]string{"lost": "172.30.0.11", "elsewhere": "172.30.0.12"} {
		p := pod(name)
		l.cluster.mu.Lock()
		l.cluster.stored[p.Key()] = &ciliumv2.CiliumEndpoint{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{UID: types.UID(p.UID)}}}}
		l.cluster.mu.Unlock()
		l.cluster.raw.Remotes.Upsert(endpoint.Remote{Namespace: p.Namespace, Name: name, PodUID: p.UID, NodeIP: netip.MustParseAddr(nodeIP), State: endpoint.StateReady})
	}
	l.await("the object of this node is gone", func() bool { return l.cluster.published("default/lost") == nil })
	if l.cluster.published("default/elsewhere") == nil {
		t.Error("the object of a pod of another node was removed")
	}
}

func TestGarbageCollectionRemovesWhatIsNotInUse(t *testing.T) {
	l := newLab(t).start()
	for _, name := range []string{"kept", "lost"} {
		l.bind(pod(name))
		l.mustAdd(pod(name))
	}
	in := rest.CNIGCRequest{ValidAttachments: []rest.CNIAttachment{{ContainerID: "c-kept", IfName: "eth0"}}}
	if err := l.client.Call(t.Context(), "PUT", rest.PathCNIGC, in, nil); err != nil {
		t.Fatal(err)
	}
	if list := rowsOf(l.agent.tables.endpoints); len(list) != 1 || list[0].Pod != "kept" {
		t.Errorf("got %v", list)
	}
}

func TestCheckSeesADifference(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl")
	l.bind(p)
	got := l.mustAdd(p)
	check := func(addresses ...string) error {
		r := l.request(p)
		r.Addresses = addresses
		return l.client.Call(t.Context(), "PUT", rest.PathCNICheck, r, nil)
	}
	if err := check(got.Addresses[0].Address, got.Addresses[1].Address); err != nil {
		t.Error(err)
	}
	if err := check("10.9.9.9/32"); code(err) != rest.CNIFailed {
		t.Errorf("another address: %v", err)
	}
	l.kernel.mu.Lock()
	clear(l.kernel.links)
	l.kernel.mu.Unlock()
	if err := check(); code(err) != rest.CNIFailed {
		t.Errorf("no link: %v", err)
	}
}

func TestStatusFailsUntilPodsCanBeAttached(t *testing.T) {
	l := newLab(t)
	l.cluster.ranges = nil // the operator has not come yet
	l.launch()
	l.await("the socket answers", func() bool {
		err := l.client.Call(t.Context(), "GET", rest.PathCNIStatus, nil, nil)
		return code(err) == rest.CNITryAgain && strings.Contains(err.Error(), "node: no pod ranges yet")
	})
	if _, err := os.Stat(l.agent.opts.CNIConfFile); err == nil {
		t.Error("the CNI configuration is there before the agent is ready")
	}
	row, _ := l.agent.tables.nodes.Get("n1")
	row.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("fd00:1::/120")}
	l.cluster.mu.Lock()
	l.cluster.ranges = row.PodCIDRs
	l.cluster.mu.Unlock()
	l.cluster.raw.Nodes.Upsert(row)
	l.await("the agent is ready", func() bool { return l.client.Call(t.Context(), "GET", rest.PathCNIStatus, nil, nil) == nil })
	l.await("the configuration is written", func() bool {
		_, err := os.Stat(filepath.Join(l.dir, "net.d", "05-stentor.conflist"))
		return err == nil
	})
	l.await("the node is marked", func() bool {
		l.cluster.mu.Lock()
		defer l.cluster.mu.Unlock()
		return l.cluster.marked
	})
}

func TestAServiceBecomesAFrontend(t *testing.T) {
	l := newLab(t).start()
	l.cluster.raw.Services.Upsert(service.Service{Namespace: "default", Name: "web", Type: "ClusterIP", ClusterIPs: addrs("10.96.0.7"), Ports: []service.Port{{Protocol: 6, Port: 80}}})
	l.cluster.raw.Slices.Upsert(service.Slice{
		Namespace: "default", Name: "web-1", Service: "web", Ports: []service.SlicePort{{Protocol: 6, Port: 8080}},
		Endpoints: []service.SliceEndpoint{{Addresses: addrs("10.0.1.9"), Ready: true, Serving: true}},
	})
	l.await("the datapath has it", func() bool {
		l.kernel.mu.Lock()
		defer l.kernel.mu.Unlock()
		return slices.ContainsFunc(l.kernel.frontends, func(f service.Frontend) bool { return f.Port == 80 && len(f.Backends) == 1 })
	})
	var got []rest.Service
	if err := l.client.Call(t.Context(), "GET", rest.PathService, nil, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Spec.FrontendAddress.IP != "10.96.0.7" || got[0].Spec.BackendAddresses[0].Port != 8080 {
		t.Errorf("got %+v", got)
	}
}

func TestObjectsThatSomebodyDeletedComeBack(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	l.bind(p)
	got := l.mustAdd(p)
	l.await("the object is seen", func() bool {
		o := l.cluster.published("default/curl")
		return o != nil && o.Status.State == "ready"
	})
	l.cluster.raw.Remotes.Upsert(endpoint.Remote{Namespace: "default", Name: "curl"})
	l.await("the publisher has seen it", func() bool {
		_, ok := l.agent.tables.remotes.Get("default/curl")
		return ok
	})
	l.cluster.mu.Lock()
	delete(l.cluster.stored, "default/curl")
	delete(l.cluster.taken, identity.ID(got.Identity))
	l.cluster.mu.Unlock()
	l.cluster.raw.Remotes.Delete("default/curl")
	l.cluster.raw.Identities.Delete(identity.ID(got.Identity).String())
	l.cluster.raw.Nodes.Delete("n1")
	l.await("the endpoint's object is back", func() bool { return l.cluster.published("default/curl") != nil })
	l.await("the identity is back under its number", func() bool {
		_, ok := l.agent.tables.identities.Get(identity.ID(got.Identity).String())
		return ok
	})
	l.await("the node's object is back", func() bool { _, ok := l.agent.tables.nodes.Get("n1"); return ok })
	l.cluster.mu.Lock()
	if len(l.cluster.claimed) != 2 {
		t.Errorf("the ranges of its pods are free for others: it says %v", l.cluster.claimed)
	}
	l.cluster.mu.Unlock()
	if n := l.agent.tables.identities.Snapshot().Len(); n != 1 {
		t.Errorf("%d identities", n)
	}
}
