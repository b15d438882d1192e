// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/stentor-net/stentor/api/rest"
)

// proxyHealth is the answer of /healthz and /livez, in the form that load
// balancers know of kube-proxy.
type proxyHealth struct {
	LastUpdated  string `json:"lastUpdated"`
	CurrentTime  string `json:"currentTime"`
	NodeEligible *bool  `json:"nodeEligible,omitempty"` // load balancers may send to this node; /healthz only
}

// serveProxyHealth answers as kube-proxy's health check does: /livez is well while
// services are carried out, /healthz if this node also stays.
func (a *Agent) serveProxyHealth(ctx context.Context) error {
	if a.opts.Service.HealthzAddr == "" || !a.opts.Service.AllKinds {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	l, err := listen(ctx, a.opts.Service.HealthzAddr)
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, a.proxyHealth())
}

func (a *Agent) proxyHealth() http.Handler {
	answer := func(w http.ResponseWriter, eligible *bool) {
		now := time.Now()
		out := proxyHealth{CurrentTime: now.UTC().Format(time.RFC3339Nano), LastUpdated: now.UTC().Format(time.RFC3339Nano), NodeEligible: eligible}
		c, _ := a.tables.checks.Get("services")
		well := a.healthy() == nil && c.State == rest.StateOk
		if !well {
			out.LastUpdated = c.Since // since then nothing was carried out
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !well || eligible != nil && !*eligible {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(out)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		m, known := a.tables.machine.Get(a.opts.NodeName)
		eligible := !known || !m.Leaving
		answer(w, &eligible)
	})
	return mux
}
