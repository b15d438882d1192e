// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stentor-net/stentor/api/rest"
)

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return context.Cause(ctx)
	}
	return err
}

// answerProbes accepts connections of other nodes on every address of this one.
func (a *Agent) answerProbes(ctx context.Context) error {
	if a.opts.ProbePort == 0 {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	l, err := listen(ctx, net.JoinHostPort("", strconv.Itoa(int(a.opts.ProbePort))))
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
}

// serveHealthz answers kubelet's probes: 200 while the agent works.
func (a *Agent) serveHealthz(ctx context.Context) error {
	if a.opts.HealthPort == 0 {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	host := "127.0.0.1"
	if !a.opts.IPv4 {
		host = "::1"
	}
	l, err := listen(ctx, net.JoinHostPort(host, strconv.Itoa(int(a.opts.HealthPort))))
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, mux)
}

// listen opens a TCP socket without MPTCP, which does not go well with eBPF.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(ctx, "tcp", address)
}

// healthSocket is the name of the health API's socket beside the agent's own.
const healthSocket = "health.sock"

// serveHealth answers on the socket of the health API.
func (a *Agent) serveHealth(ctx context.Context) error {
	l, err := listenUnix(filepath.Join(filepath.Dir(a.opts.SocketPath), healthSocket))
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, a.healthAPI())
}

func (a *Agent) healthAPI() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := fn(r)
			answer(w, out, err)
		})
	}
	handle("GET "+rest.PathHealthStatus, func(*http.Request) (any, error) { return a.healthStatus(), nil })
	handle("PUT "+rest.PathHealthProbe, func(r *http.Request) (any, error) {
		if a.opts.ProbePort == 0 {
			return nil, httpError{http.StatusForbidden, "cluster-health-port is 0: nodes are not probed"}
		}
		a.prober.step(r.Context())
		return a.healthStatus(), nil
	})
	handle("GET "+rest.PathHealthSelf, func(*http.Request) (any, error) {
		s := a.status(true)
		return rest.HealthResponse{Cilium: &s, Uptime: time.Since(a.started).Round(time.Second).String()}, nil
	})
	return mux
}

// healthStatus is the table of node health as the health API tells it.
func (a *Agent) healthStatus() rest.HealthStatusResponse {
	out := rest.HealthStatusResponse{
		Timestamp: now(), ProbeInterval: a.opts.ProbeInterval.String(),
		Local: &rest.HealthSelf{Name: a.opts.NodeName}, Nodes: []rest.HealthNodeStatus{},
	}
	for _, h := range a.tables.health.Snapshot().All() {
		node, endpoint := h.Probes()
		out.Nodes = append(out.Nodes, rest.HealthNodeStatus{
			Name: h.Name, Host: healthPaths(node, h.LastProbe), HealthEndpoint: healthPaths(endpoint, h.LastProbe),
		})
	}
	return out
}

func healthPaths(list []rest.Probe, at string) *rest.HealthPaths {
	out := &rest.HealthPaths{}
	for i, p := range list {
		path := rest.HealthPath{IP: p.IP, HTTP: &rest.HealthConnectivity{Latency: p.Latency, Status: p.Error, LastProbed: at}}
		if p.Ping != nil {
			path.ICMP = &rest.HealthConnectivity{Latency: p.Ping.Latency, Status: p.Ping.Error, LastProbed: at}
		}
		if i == 0 {
			out.Primary = &path
		} else {
			out.Secondary = append(out.Secondary, path)
		}
	}
	return out
}
