// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/stentor-net/stentor/internal/endpoint"
)

// restore adopts the endpoints of the agent before this one: those whose link
// and row in the kernel still stand. It takes down what does not fit. Policy in
// the kernel goes on as it is until the first update.
func (m *endpoints) restore(ctx context.Context) error {
	saved, err := m.state.load()
	if err != nil {
		m.log.Warn("some endpoint state is lost", "error", err)
	}
	bases, err := m.dp.Endpoints()
	if err != nil {
		return fmt.Errorf("read endpoints of the datapath: %w", err)
	}
	kernel := make(map[uint16]EndpointBase, len(bases))
	for _, b := range bases {
		kernel[b.ID] = b
	}
	adopted := 0
	for _, s := range saved {
		e := s.Endpoint
		if why := m.adopt(s, kernel[e.ID]); why != "" {
			m.log.Info("endpoint is gone", "endpoint", e.ID, "pod", e.PodKey(), "reason", why)
			if err := m.discard(ctx, e); err != nil {
				m.log.Warn("endpoint is not removed", "endpoint", e.ID, "error", err)
			}
		} else {
			adopted++
		}
		delete(kernel, e.ID)
	}
	for id := range kernel {
		m.log.Info("endpoint without state is removed", "endpoint", id)
		if err := m.dp.RemoveEndpoint(id); err != nil {
			return fmt.Errorf("remove endpoint %d: %w", id, err)
		}
	}
	m.log.Info("endpoints adopted", "count", adopted)
	return nil
}

// adopt takes one endpoint over, or says why it cannot.
func (m *endpoints) adopt(s savedEndpoint, found EndpointBase) (why string) {
	e := s.Endpoint
	if !s.Attached {
		return "its ADD was not finished"
	}
	if namespaceGone(e.NetNS) {
		return "its network namespace is gone"
	}
	if err := m.reclaim(e); err != nil {
		return err.Error()
	}
	if found.ID == 0 || found.Incarnation != e.Incarnation || found.IfIndex != e.IfIndex {
		if err := m.dp.PutEndpoint(base(e)); err != nil {
			return err.Error()
		}
	}
	e.State, e.Error = endpoint.StateRestoring, ""
	m.writer.Upsert(e)
	return ""
}

// checkLinks tells which links are not as they were made; taking them down would
// not mend them. It waits for no one, and no one waits for it.
func (m *endpoints) checkLinks(ctx context.Context) {
	for _, e := range m.table.Snapshot().All() {
		if err := m.checkLink(ctx, e); err != nil {
			m.log.Warn("link of endpoint is not as it was made", "endpoint", e.ID, "pod", e.PodKey(), "error", err)
		}
	}
}

// checkLink checks an endpoint's link unless the endpoint is gone meanwhile.
func (m *endpoints) checkLink(ctx context.Context, e endpoint.Endpoint) error {
	unlock, err := m.busy.lock(ctx, e.ContainerID)
	if err != nil {
		return nil // the agent ends
	}
	defer unlock()
	now, ok := m.table.Get(fmt.Sprint(e.ID))
	if !ok || now.Incarnation != e.Incarnation || now.State == endpoint.StateDisconnecting {
		return nil
	}
	return m.dp.CheckPodLink(ctx, podLink(e))
}

// discard removes an endpoint that is not adopted. Until that worked it keeps its
// id and its addresses: what is left of it in the kernel still has them, and DEL
// or the sweeper try again.
func (m *endpoints) discard(ctx context.Context, e endpoint.Endpoint) error {
	if err := m.reclaim(e); err != nil {
		m.log.Warn("addresses of an endpoint are taken", "endpoint", e.ID, "error", err)
	}
	e.State, e.Error = endpoint.StateNotReady, "not adopted"
	m.writer.Upsert(e)
	return m.remove(ctx, e)
}

// reclaim takes the endpoint's addresses out of the pools.
func (m *endpoints) reclaim(e endpoint.Endpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
		if !a.IsValid() || m.pools[familyOf(a)] == nil {
			continue
		}
		if err := m.pools[familyOf(a)].Reserve(a, owner(e)); err != nil {
			return err
		}
	}
	return nil
}

// collect removes every endpoint whose attachment is not in use any more.
func (m *endpoints) collect(ctx context.Context, inUse map[string]bool) error {
	for _, e := range m.table.Snapshot().All() {
		if inUse[e.ContainerID+"/"+e.ContainerIfName] {
			continue
		}
		if err := m.evict(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// namespaceGone tells whether the path of a network namespace does not exist any
// more, though the folder that it was in does: without the folder it is this
// process that cannot see.
func namespaceGone(path string) bool {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err := os.Stat(filepath.Dir(path))
	return err == nil
}
