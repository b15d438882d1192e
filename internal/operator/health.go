// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// serveHealth answers probes until ctx ends. /healthz is about the process
// alone: to restart it cures no outage of the API server. /readyz of the leader
// says whether our kinds are known; that of another replica is always good.
func (op *operator) serveHealth(ctx context.Context) error {
	if op.HealthAddress == "-" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", op.HealthAddress)
	if err != nil {
		return fmt.Errorf("serve health: %w", err)
	}
	server := &http.Server{Handler: op.health(), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health: %w", err)
	}
	return context.Cause(ctx)
}

func (op *operator) health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "ok\nleader: %v\n", op.leader.Load()) // the client went away
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if op.leader.Load() && !op.ready.Load() {
			http.Error(w, "definitions are not established yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return mux
}
