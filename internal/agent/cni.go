// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cni/rundir"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/ipam"
)

// cni carries out the calls of the CNI plugin.
type cni struct {
	log       *slog.Logger
	opts      Options
	tables    *tables
	cluster   Cluster
	ids       *allocator
	endpoints *endpoints
	queue     rundir.Dir // deletions that the plugin could not hand over
	// ready is closed once pods can be attached.
	ready <-chan struct{}
	// restored is closed once the endpoints of the agent before are adopted:
	// before, DEL would not find them.
	restored <-chan struct{}
}

// How long a call waits for the agent itself, and for what the watch brings.
const (
	readyTimeout = 5 * time.Second
	watchTimeout = 2 * time.Second
)

func failure(code int, msg string, err error) *rest.CNIError {
	e := &rest.CNIError{Code: code, Msg: msg}
	if err != nil {
		e.Details = err.Error()
	}
	return e
}

// Add attaches a container. It returns only when the pod's policy is in force.
// Called again for the same container it gives the same answer.
func (c *cni) Add(ctx context.Context, r rest.CNIRequest) (rest.CNIResult, error) {
	if r.ContainerID == "" || r.IfName == "" || r.NetNS == "" || r.PodNamespace == "" || r.PodName == "" {
		return rest.CNIResult{}, failure(rest.CNIInvalidEnvironment, "container, interface, netns and pod must be named", nil)
	}
	r.NetNS = visible(r.NetNS)
	if err := c.await(ctx, c.ready); err != nil {
		return rest.CNIResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.AddTimeout)
	defer cancel()
	unlock, err := c.endpoints.busy.lock(ctx, r.ContainerID)
	if err != nil {
		return rest.CNIResult{}, failure(rest.CNITryAgain, "another call for this container is under way", err)
	}
	defer unlock()
	pod, err := c.pod(ctx, r)
	if err != nil {
		return rest.CNIResult{}, err
	}
	a, err := c.identify(ctx, r, pod)
	if err != nil {
		return rest.CNIResult{}, err
	}
	// A deletion of an earlier attachment that is still queued must not hit this
	// one; attach takes down what it was meant for.
	if err := c.queue.ForgetDeletion(r); err != nil {
		return rest.CNIResult{}, failure(rest.CNIFailed, "attach the pod", err)
	}
	e, err := c.endpoints.attach(ctx, a)
	switch {
	case errors.Is(err, ipam.ErrExhausted):
		return rest.CNIResult{}, failure(rest.CNINoAddress, "no address for the pod", err)
	case err != nil:
		return rest.CNIResult{}, failure(rest.CNIFailed, "attach the pod", err)
	}
	if e, err = c.settle(ctx, e); err != nil {
		return rest.CNIResult{}, err
	}
	c.log.Info("endpoint attached", "endpoint", e.ID, "pod", e.PodKey(), "identity", e.Identity)
	return c.result(e), nil
}

// settle waits for policy; without it the endpoint goes away again, so that
// the runtime's next try starts afresh.
func (c *cni) settle(ctx context.Context, e endpoint.Endpoint) (endpoint.Endpoint, error) {
	ready, err := c.endpoints.waitReady(ctx, e)
	if err == nil {
		return ready, nil
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return e, failure(rest.CNITryAgain, "policy of the pod is not in force", errors.Join(err, c.endpoints.remove(cleanup, e)))
}

// await waits for a gate of the agent.
func (c *cni) await(ctx context.Context, gate <-chan struct{}) error {
	t := time.NewTimer(readyTimeout)
	defer t.Stop()
	select {
	case <-gate:
		return nil
	case <-t.C:
	case <-ctx.Done():
	}
	return failure(rest.CNITryAgain, "the agent is starting", errors.New(c.notReadyBecause()))
}

// notReadyBecause names the parts that are missing.
func (c *cni) notReadyBecause() string {
	text := ""
	for _, check := range c.tables.checks.Snapshot().All() {
		if check.State != rest.StateOk && check.State != rest.StateDisabled {
			if text != "" {
				text += "; "
			}
			text += check.Name + ": " + check.Msg
		}
	}
	return text
}

// pod finds the pod in the watch, or asks for it once: a pod must never get the
// identity of another, or none, because a watch is late.
func (c *cni) pod(ctx context.Context, r rest.CNIRequest) (endpoint.Pod, error) {
	p, ok := c.tables.pods.Get(r.PodNamespace + "/" + r.PodName)
	if ok && isPod(p, r.PodUID) {
		return p, nil
	}
	p, err := c.cluster.Pod(ctx, r.PodNamespace, r.PodName)
	switch {
	case errors.Is(err, ErrNotFound):
		return p, failure(rest.CNIUnknownContainer, "the pod "+r.PodNamespace+"/"+r.PodName+" does not exist", nil)
	case err != nil:
		return p, failure(rest.CNITryAgain, "ask for the pod", err)
	case !isPod(p, r.PodUID):
		return p, failure(rest.CNIUnknownContainer, "the pod "+p.Key()+" has been replaced by another of its name", nil)
	}
	return p, nil
}

// isPod tells whether the runtime means this pod by the UID. It names a static
// pod by the hash of its file; the API's copy of it has another UID, and the
// hash in an annotation. Older runtimes send no UID.
func isPod(p endpoint.Pod, uid string) bool {
	return uid == "" || p.UID == uid || p.Annotations["kubernetes.io/config.hash"] == uid
}

// identify gives the pod its labels and their number.
func (c *cni) identify(ctx context.Context, r rest.CNIRequest, p endpoint.Pod) (attachment, error) {
	waiting, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	ns, ok := c.tables.namespaces.Get(p.Namespace)
	for !ok {
		seen := c.tables.namespaces.Changed()
		if ns, ok = c.tables.namespaces.Get(p.Namespace); ok {
			break
		}
		if waitAny(waiting, seen) != nil {
			return attachment{}, failure(rest.CNITryAgain, "the namespace "+p.Namespace+" is not known yet", nil)
		}
	}
	labels := endpoint.IdentityLabels(p, ns.Labels, c.opts.ClusterName, c.opts.labels)
	id, err := c.ids.ensure(ctx, labels, 0)
	if err != nil {
		return attachment{}, failure(rest.CNITryAgain, "the pod has no identity yet", err)
	}
	return attachment{ContainerID: r.ContainerID, IfName: r.IfName, NetNS: r.NetNS, Pod: p, Labels: labels, Identity: id}, nil
}

func (c *cni) result(e endpoint.Endpoint) rest.CNIResult {
	mtu := c.endpoints.dp.MTU()
	out := rest.CNIResult{
		HostIfName: e.Interface, HostMAC: macText(e.NodeMAC), MAC: macText(e.MAC), MTU: mtu,
		EndpointID: int(e.ID), Identity: int64(e.Identity),
		Addresses: []rest.CNIAddress{}, Routes: []rest.CNIRoute{},
	}
	for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
		if !a.IsValid() {
			continue
		}
		gateway := c.endpoints.router(familyOf(a)).String()
		everything := "0.0.0.0/0"
		if a.Is6() {
			everything = "::/0"
		}
		out.Addresses = append(out.Addresses, rest.CNIAddress{Address: host(a).String(), Gateway: gateway})
		out.Routes = append(out.Routes,
			rest.CNIRoute{Dst: gateway + "/" + fmt.Sprint(a.BitLen())},
			rest.CNIRoute{Dst: everything, GW: gateway, MTU: mtu})
	}
	return out
}

// Del detaches a container. What is unknown is detached already.
func (c *cni) Del(ctx context.Context, r rest.CNIRequest) error {
	if err := c.await(ctx, c.restored); err != nil {
		return err
	}
	unlock, err := c.endpoints.busy.lock(ctx, r.ContainerID)
	if err != nil {
		return failure(rest.CNITryAgain, "another call for this container is under way", err)
	}
	defer unlock()
	e, ok := c.endpoints.find(r.ContainerID, r.IfName)
	if !ok {
		return nil
	}
	if err := c.endpoints.remove(ctx, e); err != nil {
		return failure(rest.CNITryAgain, "detach the pod", err)
	}
	c.log.Info("endpoint detached", "endpoint", e.ID, "pod", e.PodKey())
	return nil
}

// Check compares an attachment with what Add made.
func (c *cni) Check(ctx context.Context, r rest.CNIRequest) error {
	if err := c.await(ctx, c.restored); err != nil {
		return err
	}
	e, ok := c.endpoints.find(r.ContainerID, r.IfName)
	if !ok {
		return failure(rest.CNIUnknownContainer, "no such attachment", nil)
	}
	for _, text := range r.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr() != e.IPv4 && p.Addr() != e.IPv6 {
			return failure(rest.CNIFailed, "the pod should not have the address "+text, err)
		}
	}
	if err := c.endpoints.dp.CheckPodLink(ctx, podLink(e)); err != nil {
		return failure(rest.CNIFailed, "the pod's interface is not as it was made", err)
	}
	return nil
}

// Status tells whether Add would work. An agent that starts asks to try again:
// the plugin knows since when it is away, and reports only a long absence.
func (c *cni) Status(context.Context) error {
	select {
	case <-c.ready:
		return nil
	default:
		return failure(rest.CNITryAgain, "the agent cannot attach pods yet", errors.New(c.notReadyBecause()))
	}
}

// GC removes what is not in use any more.
func (c *cni) GC(ctx context.Context, r rest.CNIGCRequest) error {
	if err := c.await(ctx, c.restored); err != nil {
		return err
	}
	inUse := map[string]bool{}
	for _, a := range r.ValidAttachments {
		inUse[a.ContainerID+"/"+a.IfName] = true
	}
	if err := c.endpoints.collect(ctx, inUse); err != nil {
		return failure(rest.CNIFailed, "remove unused interfaces", err)
	}
	return nil
}

func macText(m [6]byte) string { return net.HardwareAddr(m[:]).String() }

// visible is the path of a namespace as this process sees it: /var/run is a link
// to /run on the node, but perhaps not in the agent's container.
func visible(netns string) string {
	short, ok := strings.CutPrefix(netns, "/var")
	if !ok || !strings.HasPrefix(short, "/run/") {
		return netns
	}
	if _, err := os.Stat(netns); err == nil {
		return netns
	}
	return short
}
