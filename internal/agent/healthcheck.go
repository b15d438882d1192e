// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

// healthCheckPorts answers on the healthCheckNodePort of each Service whose load
// balancer wants to know which nodes have a backend: 200 with one, 503 without.
type healthCheckPorts struct {
	log    *slog.Logger
	tables *tables

	frontends *table.Cursor[service.Frontend]
	wanted    map[string]uint16 // ports, by the frontend that has one
	servers   map[uint16]*http.Server
}

func newHealthCheckPorts(log *slog.Logger, t *tables) *healthCheckPorts {
	return &healthCheckPorts{log: log, tables: t, frontends: t.frontends.Changes(), wanted: map[string]uint16{}, servers: map[uint16]*http.Server{}}
}

// localEndpoints is the answer, in the form that load balancers know of kube-proxy.
type localEndpoints struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

func (h *healthCheckPorts) Run(ctx context.Context) error {
	defer func() {
		h.frontends.Close()
		for _, s := range h.servers {
			s.Close()
		}
	}()
	for {
		changed, failed := h.listen()
		retry := time.Hour
		if failed {
			retry = insistEvery
		}
		wait, cancel := context.WithTimeout(ctx, retry)
		err := waitAny(wait, changed)
		cancel()
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// listen opens the ports that are wanted and closes the others. It tells when there
// is more to do, and whether a port could not be opened.
func (h *healthCheckPorts) listen() (more <-chan struct{}, failed bool) {
	changes, more := h.frontends.Next()
	for _, c := range changes {
		delete(h.wanted, c.Key)
		if !c.Deleted && c.Row.HealthCheck != 0 {
			h.wanted[c.Key] = c.Row.HealthCheck
		}
	}
	wanted := map[uint16]bool{}
	for _, port := range h.wanted {
		wanted[port] = true
	}
	for port, s := range h.servers {
		if !wanted[port] {
			s.Close()
			delete(h.servers, port)
		}
	}
	for port := range wanted {
		if h.servers[port] != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			h.log.Warn("health check of a service is not answered", "port", port, "error", err)
			failed = true
			continue
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { h.answer(w, port) }), ReadHeaderTimeout: 5 * time.Second}
		h.servers[port] = s
		go func() {
			if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				h.log.Warn("health check of a service ends", "port", port, "error", err)
			}
		}()
	}
	return more, failed
}

// answer counts the backends of this node, each once, whatever ports it has.
func (h *healthCheckPorts) answer(w http.ResponseWriter, port uint16) {
	var out localEndpoints
	seen := map[string]bool{}
	for _, f := range h.tables.frontends.Snapshot().Index("health-check", strconv.Itoa(int(port))) {
		out.Service.Namespace, out.Service.Name, _ = strings.Cut(f.Service, "/")
		for _, b := range f.Takers() {
			if b.State == service.Active {
				seen[b.Addr.String()] = true
			}
		}
	}
	out.LocalEndpoints, out.ServiceProxyHealthy = len(seen), true
	w.Header().Set("Content-Type", "application/json")
	if out.LocalEndpoints == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(out)
}
