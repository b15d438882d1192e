// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"testing"

	"github.com/stentor-net/stentor/internal/endpoint"
)

func TestAnEndpointWithoutNamespaceGoesAtTheSecondLook(t *testing.T) {
	_, _, own := newTables()
	kernel := newFakeKernel(t)
	m := newEndpoints(slog.New(slog.DiscardHandler), Options{RunDir: t.TempDir()}, newMetrics(), own.endpoints)
	m.dp = kernel
	own.endpoints.Upsert(
		endpoint.Endpoint{ID: 1, Incarnation: 7, ContainerID: "lost", ContainerIfName: "eth0", NetNS: t.TempDir() + "/none"},
		endpoint.Endpoint{ID: 2, Incarnation: 8, ContainerID: "kept", ContainerIfName: "eth0", NetNS: t.TempDir()},
	)
	s := &sweeper{log: slog.New(slog.DiscardHandler), endpoints: m}
	s.step(t.Context())
	if n := m.table.Snapshot().Len(); n != 2 {
		t.Errorf("%d endpoints after the first look", n)
	}
	s.step(t.Context())
	if list := rowsOf(m.table); len(list) != 1 || list[0].ID != 2 {
		t.Errorf("got %v", list)
	}
}
