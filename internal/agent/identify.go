// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
)

// identifier numbers the pods of this node as soon as they are bound to it, and
// follows their labels: when those of a pod or of its namespace change, its
// endpoint gets another identity.
type identifier struct {
	log       *slog.Logger
	opts      Options
	tables    *tables
	ids       *allocator
	endpoints *endpoints
	checks    *checks

	known map[string]wantedIdentity // by UID of the pod: what the last step found
}

// How often pods are looked at again at most, and after an error.
const (
	identifyEvery = 10 * time.Millisecond
	identifyRetry = time.Second
)

func (i *identifier) Run(ctx context.Context) error {
	t := i.tables
	if err := waitSynced(ctx, t.pods, t.namespaces, t.identities); err != nil {
		return err
	}
	for {
		seen := watch(t.pods, t.namespaces, t.identities, t.endpoints)
		wait := identifyEvery
		if err := i.step(ctx); err != nil {
			i.checks.warn("identities", err.Error(), "pods whose labels are new", "their identity is created again every second")
			wait = identifyRetry
			seen = nil
		} else {
			i.checks.ok("identities", "")
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		if seen == nil {
			continue
		}
		if err := waitAny(ctx, seen...); err != nil {
			return err
		}
	}
}

// step looks at every pod of the node once. It returns the first error, after
// having tried all.
func (i *identifier) step(ctx context.Context) error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	wanted := map[string]wantedIdentity{}
	inUse := sync.OnceValue(func() map[string]identity.ID {
		out := map[string]identity.ID{}
		for _, e := range i.tables.endpoints.Snapshot().All() {
			out[e.Labels.Key()] = e.Identity
		}
		return out
	})
	identities := i.tables.identities.Revision()
	pods, namespaces := i.tables.pods.Snapshot(), i.tables.namespaces.Snapshot()
	for key, p := range pods.All() {
		if p.HostNetwork || p.Phase == "Succeeded" || p.Phase == "Failed" {
			continue
		}
		from := [3]uint64{pods.Written(key), namespaces.Written(p.Namespace), identities}
		if w, ok := i.known[p.UID]; ok && w.from == from {
			wanted[p.UID] = w
			continue
		}
		ns, ok := namespaces.Get(p.Namespace)
		if !ok {
			continue // on its way
		}
		labels := endpoint.IdentityLabels(p, ns.Labels, i.opts.ClusterName, i.opts.labels)
		w := wantedIdentity{labels: labels, ports: p.Ports, from: from}
		var err error
		if w.id, err = i.ids.ensure(ctx, labels, inUse()[labels.Key()]); err != nil {
			keep(err)
			w.from = [3]uint64{} // look again
		}
		wanted[p.UID] = w
	}
	i.known = wanted
	for _, e := range i.tables.endpoints.Snapshot().All() {
		w, ok := wanted[e.PodUID]
		if !ok || e.State == endpoint.StateDisconnecting {
			continue
		}
		id := w.id
		if id == 0 || id == e.Identity && slices.Equal(w.labels, e.Labels) && slices.Equal(w.ports, e.Ports) {
			continue
		}
		i.log.Info("identity of endpoint changes", "endpoint", e.ID, "pod", e.PodKey(), "old", e.Identity, "new", id)
		keep(i.endpoints.relabel(e, w.labels, id, w.ports))
	}
	return first
}

// wantedIdentity is what a pod's endpoint should have; id 0: none can be had now.
type wantedIdentity struct {
	labels label.Set
	ports  []endpoint.Port
	id     identity.ID
	from   [3]uint64 // revisions of the pod, its namespace and the identities
}
