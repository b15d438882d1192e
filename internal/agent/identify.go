// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"slices"
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
	inUse := map[string]identity.ID{}
	for _, e := range i.tables.endpoints.Snapshot().All() {
		inUse[e.Labels.Key()] = e.Identity
	}
	for _, p := range i.tables.pods.Snapshot().All() {
		if p.HostNetwork || p.Phase == "Succeeded" || p.Phase == "Failed" {
			continue
		}
		labels, ok := i.labels(p)
		if !ok {
			continue // its namespace is on its way
		}
		wanted[p.UID] = wantedIdentity{labels, p.Ports}
		_, err := i.ids.ensure(ctx, labels, inUse[labels.Key()])
		keep(err)
	}
	for _, e := range i.tables.endpoints.Snapshot().All() {
		w, ok := wanted[e.PodUID]
		if !ok || e.State == endpoint.StateDisconnecting {
			continue
		}
		id, found := i.ids.lookup(w.labels)
		if !found || id == e.Identity && slices.Equal(w.labels, e.Labels) && slices.Equal(w.ports, e.Ports) {
			continue
		}
		i.log.Info("identity of endpoint changes", "endpoint", e.ID, "pod", e.PodKey(), "old", e.Identity, "new", id)
		keep(i.endpoints.relabel(e, w.labels, id, w.ports))
	}
	return first
}

type wantedIdentity struct {
	labels label.Set
	ports  []endpoint.Port
}

// labels of a pod; false while its namespace is not known.
func (i *identifier) labels(p endpoint.Pod) (label.Set, bool) {
	ns, ok := i.tables.namespaces.Get(p.Namespace)
	if !ok {
		return nil, false
	}
	return endpoint.IdentityLabels(p, ns.Labels, i.opts.ClusterName, i.opts.labels), true
}
