// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"
)

// sweeper removes endpoints whose network namespace is gone: their pods ended,
// and nobody called DEL, because the runtime lost its state.
type sweeper struct {
	log       *slog.Logger
	endpoints *endpoints

	missing map[uint16]uint32 // id -> incarnation of those that were missing the last time
}

const sweepEvery = 30 * time.Second

func (s *sweeper) Run(ctx context.Context) error {
	for {
		s.step(ctx)
		if err := pause(ctx, sweepEvery); err != nil {
			return err
		}
	}
}

// step removes what was missing the last time too: a DEL may be under way.
func (s *sweeper) step(ctx context.Context) {
	missing := map[uint16]uint32{}
	for _, e := range s.endpoints.table.Snapshot().All() {
		if !namespaceGone(e.NetNS) {
			continue
		}
		missing[e.ID] = e.Incarnation
		if s.missing[e.ID] != e.Incarnation {
			continue
		}
		if err := s.endpoints.evict(ctx, e); err != nil {
			s.log.Warn("endpoint without network namespace is not removed", "endpoint", e.ID, "pod", e.PodKey(), "error", err)
		} else {
			s.log.Info("endpoint without network namespace is removed", "endpoint", e.ID, "pod", e.PodKey())
		}
	}
	s.missing = missing
}
