// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/table"
)

// orphanedEndpoints returns the endpoints whose pod is gone, or is another one
// by now.
func orphanedEndpoints(endpoints table.Snapshot[endpointRow], pods table.Snapshot[podRow]) []endpointRow {
	var out []endpointRow
	for key, e := range endpoints.All() {
		pod, ok := pods.Get(key)
		if !ok || pod.Gone || (e.PodUID != "" && e.PodUID != pod.UID) {
			out = append(out, e)
		}
	}
	return out
}

// orphanedNodes returns the CiliumNodes without a Node that Kubernetes does not
// remove by itself.
func orphanedNodes(nodes table.Snapshot[nodeRow], kube table.Snapshot[kubeNodeRow]) []nodeRow {
	var out []nodeRow
	for name, n := range nodes.All() {
		if _, ok := kube.Get(name); !ok && !n.Owned {
			out = append(out, n)
		}
	}
	return out
}

// patience holds the UIDs of the orphans of one look: the watches of two kinds
// are not in step, so one look is not enough.
type patience map[string]bool

// again notes the object for the next look, and says whether it was an orphan
// at the last one, too.
func (p patience) again(uid string, fresh patience) bool {
	fresh[uid] = true
	return p[uid]
}

// collectOrphans removes endpoints and nodes that outlived what they describe,
// at the second look, until ctx ends.
func (op *operator) collectOrphans(ctx context.Context, view *view) error {
	for _, synced := range []<-chan struct{}{view.endpoints.Synced(), view.pods.Synced(), view.nodes.Synced(), view.kubeNodes.Synced()} {
		select {
		case <-synced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for seen := (patience{}); ; {
		fresh := patience{}
		for _, e := range orphanedEndpoints(view.endpoints.Snapshot(), view.pods.Snapshot()) {
			if seen.again(e.UID, fresh) {
				op.removeEndpoint(ctx, e)
			}
		}
		for _, n := range orphanedNodes(view.nodes.Snapshot(), view.kubeNodes.Snapshot()) {
			if seen.again(n.UID, fresh) {
				op.removeNode(ctx, n)
			}
		}
		seen = fresh
		if err := pause(ctx, op.EndpointGCInterval); err != nil {
			return err
		}
	}
}

// removeEndpoint asks the API server itself once more, then deletes.
func (op *operator) removeEndpoint(ctx context.Context, e endpointRow) {
	pod, err := k8s.Pods.Get(ctx, op.client, e.Namespace, e.Name)
	if err == nil {
		row, _ := podFrom(pod)
		if !row.Gone && (e.PodUID == "" || e.PodUID == row.UID) {
			return
		}
	} else if !apierrors.IsNotFound(err) {
		return
	}
	err = k8s.CiliumEndpoints.Delete(ctx, op.client, e.Namespace, e.Name, types.UID(e.UID))
	op.removed(ctx, "endpoint", e.Namespace+"/"+e.Name, err)
}

func (op *operator) removeNode(ctx context.Context, n nodeRow) {
	if _, err := k8s.Nodes.Get(ctx, op.client, "", n.Name); !apierrors.IsNotFound(err) {
		return
	}
	op.removed(ctx, "node", n.Name, k8s.CiliumNodes.Delete(ctx, op.client, "", n.Name, types.UID(n.UID)))
}

func (op *operator) removed(ctx context.Context, what, name string, err error) {
	switch {
	case err == nil:
		op.metrics.removed.Inc(what)
		op.Log.Info("orphan removed", "kind", what, "name", name)
	case ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
		op.Log.Warn("orphan not removed", "kind", what, "name", name, "error", err)
	}
}

// removeTaints lets pods onto nodes that have a CiliumNode with pod ranges,
// until ctx ends.
func (op *operator) removeTaints(ctx context.Context, view *view) error {
	for {
		nodes, kube := view.nodes.Changed(), view.kubeNodes.Changed()
		for name, k := range view.kubeNodes.Snapshot().All() {
			n, known := view.nodes.Get(name)
			if !k.Tainted || !known || (op.IPAM == IPAMClusterPool && len(n.Ranges) == 0) {
				continue
			}
			if _, err := op.client.RemoveTaint(ctx, name, k8s.TaintAgentNotReady); err != nil && ctx.Err() == nil {
				op.Log.Warn("taint not removed", "node", name, "error", err)
			}
		}
		timer := time.NewTimer(time.Minute)
		select {
		case <-nodes:
		case <-kube:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}
