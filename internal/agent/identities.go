// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// allocator finds or makes the number of a label set. Two agents may make two
// numbers for one set at the same time: all of them settle on the lower one as
// soon as they see both.
//
// mu guards created, local and nodes; making guards the calls that create, so that one set gets
// one number from this agent.
type allocator struct {
	cluster Cluster
	table   *table.Table[identity.Identity]

	mu      sync.Mutex
	created map[string]identity.Identity // by label.Set.Key: made here, not yet seen in the table
	local   map[identity.ID]label.Set    // the policy engine's own, for prefixes
	nodes   map[identity.ID]label.Set    // of nodes by their labels; never changed, only replaced
	making  sync.Mutex
}

func newAllocator(c Cluster, t *table.Table[identity.Identity]) *allocator {
	return &allocator{cluster: c, table: t, created: map[string]identity.Identity{}}
}

// lookup returns the lowest known number of the labels.
func (a *allocator) lookup(labels label.Set) (identity.ID, bool) {
	key := labels.Key()
	best := identity.ID(0)
	for _, i := range a.table.Snapshot().Index("labels", key) {
		if best == 0 || i.ID < best {
			best = i.ID
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if made, ok := a.created[key]; ok {
		if _, seen := a.table.Get(made.ID.String()); seen {
			delete(a.created, key)
		} else if best == 0 || made.ID < best {
			best = made.ID
		}
	}
	return best, best != 0
}

// known returns all identities, those included that the watch has not shown yet.
func (a *allocator) known() map[identity.ID]label.Set {
	snapshot := a.table.Snapshot()
	out := make(map[identity.ID]label.Set, snapshot.Len()+16)
	for _, i := range snapshot.All() {
		out[i.ID] = i.Labels
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.created {
		out[i.ID] = i.Labels
	}
	return out
}

// labelsOf returns the labels of an identity of the cluster.
func (a *allocator) labelsOf(id identity.ID) (label.Set, bool) {
	if i, ok := a.table.Get(id.String()); ok {
		return i.Labels, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.created {
		if i.ID == id {
			return i.Labels, true
		}
	}
	return nil, false
}

// fresh lists the identities made here that the table may not have yet.
func (a *allocator) fresh() (out []identity.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.created {
		out = append(out, i.ID)
	}
	return out
}

// ensure returns the number of the labels and makes one if there is none, if
// possible the preferred one (0: any): an object that somebody deleted comes
// back as it was. The table must have its first complete content.
func (a *allocator) ensure(ctx context.Context, labels label.Set, preferred identity.ID) (identity.ID, error) {
	if err := waitSynced(ctx, a.table); err != nil {
		return 0, fmt.Errorf("wait for identities: %w", err)
	}
	if id, ok := a.lookup(labels); ok {
		return id, a.keep(ctx, id)
	}
	a.making.Lock()
	defer a.making.Unlock()
	for {
		if id, ok := a.lookup(labels); ok {
			return id, a.keep(ctx, id)
		}
		id, err := a.free(preferred)
		preferred = 0 // once
		if err != nil {
			return 0, err
		}
		err = a.cluster.CreateIdentity(ctx, id, labels)
		switch {
		case err == nil:
			a.mu.Lock()
			defer a.mu.Unlock()
			if _, seen := a.table.Get(id.String()); !seen {
				a.created[labels.Key()] = identity.Identity{ID: id, Labels: labels}
			}
			return id, nil
		case errors.Is(err, ErrTaken):
			// The watch will show it; until then another number is tried.
			if err := pause(ctx, time.Millisecond); err != nil {
				return 0, err
			}
		default:
			return 0, fmt.Errorf("create identity %d: %w", id, err)
		}
	}
}

// keep tells the operator that a number is in use which it is about to remove.
// If it was quicker the call fails, and the next one makes another number.
func (a *allocator) keep(ctx context.Context, id identity.ID) error {
	if row, _ := a.table.Get(id.String()); !row.Unused {
		return nil
	}
	if err := a.cluster.KeepIdentity(ctx, id); err != nil {
		return fmt.Errorf("keep identity %d: %w", id, err)
	}
	return nil
}

// free picks a number at random, so that agents that create at the same time
// seldom pick the same.
func (a *allocator) free(preferred identity.ID) (identity.ID, error) {
	if _, used := a.table.Get(preferred.String()); preferred != 0 && !used {
		return preferred, nil
	}
	const span = uint32(identity.MaxAllocated-identity.MinAllocated) + 1
	snapshot := a.table.Snapshot()
	start := rand.Uint32N(span)
	for i := range span {
		id := identity.MinAllocated + identity.ID((start+i)%span)
		if _, used := snapshot.Get(strconv.FormatUint(uint64(id), 10)); !used && !a.isCreated(id) {
			return id, nil
		}
	}
	return 0, errors.New("all numbers of identities are in use")
}

func (a *allocator) isCreated(id identity.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range a.created {
		if i.ID == id {
			return true
		}
	}
	return false
}

// changeLocal takes over what changed about the identities that the policy
// engine makes for prefixes. all: it starts anew.
func (a *allocator) changeLocal(c policy.LocalIdentities, all bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if all || a.local == nil {
		a.local = map[identity.ID]label.Set{}
	}
	for _, id := range c.Gone {
		delete(a.local, id)
	}
	maps.Copy(a.local, c.New)
}

// setNodes keeps the identities of nodes by their labels. The map must not change.
func (a *allocator) setNodes(m map[identity.ID]label.Set) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nodes = m
}

// locals returns the identities that exist on this node only.
func (a *allocator) locals() map[identity.ID]label.Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[identity.ID]label.Set, len(a.local)+len(a.nodes))
	maps.Copy(out, a.local)
	maps.Copy(out, a.nodes)
	return out
}
