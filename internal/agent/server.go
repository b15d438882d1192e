// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/stentor-net/stentor/api/rest"
)

// server answers on the agent's unix socket.
type server struct{ agent *Agent }

// socketMode lets root and the group of the socket's owner call.
const socketMode = 0o660

// listenUnix opens the socket. It comes before everything else, so that the
// plugin finds somebody who tells it to wait.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("serve the socket: %w", err)
	}
	// A socket file left by a killed agent refuses connections; it goes. One
	// that answers belongs to another agent, with which this one must not fight.
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("serve the socket: another agent answers on %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("serve the socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("serve the socket: %w", err)
	}
	if err := os.Chmod(path, socketMode); err != nil {
		l.Close()
		return nil, fmt.Errorf("serve the socket: %w", err)
	}
	return l, nil
}

func (s *server) handler() http.Handler {
	a := s.agent
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := fn(r)
			answer(w, out, err)
		})
	}
	handle("PUT "+rest.PathCNIAdd, cniCall(func(ctx context.Context, in rest.CNIRequest) (any, error) { return a.cni.Add(ctx, in) }))
	handle("PUT "+rest.PathCNIDel, cniCall(func(ctx context.Context, in rest.CNIRequest) (any, error) { return nil, a.cni.Del(ctx, in) }))
	handle("PUT "+rest.PathCNICheck, cniCall(func(ctx context.Context, in rest.CNIRequest) (any, error) { return nil, a.cni.Check(ctx, in) }))
	handle("PUT "+rest.PathCNIGC, cniCall(func(ctx context.Context, in rest.CNIGCRequest) (any, error) { return nil, a.cni.GC(ctx, in) }))
	handle("GET "+rest.PathCNIStatus, func(r *http.Request) (any, error) { return nil, a.cni.Status(r.Context()) })

	handle("GET "+rest.PathHealthz, func(r *http.Request) (any, error) { return a.status(r.FormValue("brief") == "true"), nil })
	handle("GET "+rest.PathEndpoint, func(r *http.Request) (any, error) { return a.endpointList(r.Form["labels"]), nil })
	handle("GET "+rest.PathEndpointID+"{id...}", func(r *http.Request) (any, error) { return a.endpointPart(r.PathValue("id")) })
	handle("PATCH "+rest.PathEndpointID+"{id...}", a.patchEndpoint)
	handle("GET "+rest.PathIdentity, func(r *http.Request) (any, error) { return a.identityList(r.Form["labels"]), nil })
	handle("GET "+rest.PathIdentityID+"{id}", func(r *http.Request) (any, error) { return a.identity(r.PathValue("id")) })
	handle("GET "+rest.PathIdentityID+"endpoints", func(*http.Request) (any, error) { return a.identityEndpoints(), nil })
	handle("GET "+rest.PathIP, func(r *http.Request) (any, error) { return a.ipList(r.FormValue("cidr")) })
	handle("GET "+rest.PathClusterNodes, func(*http.Request) (any, error) { return a.nodeList(), nil })
	handle("GET "+rest.PathNodeIDs, func(*http.Request) (any, error) { return a.nodeIDs() })
	handle("GET "+rest.PathPolicy, func(*http.Request) (any, error) { return a.policy() })
	handle("GET "+rest.PathPolicySelectors, func(*http.Request) (any, error) { return a.policySelectors(false) })
	handle("GET "+rest.PathPolicySubjectSelectors, func(*http.Request) (any, error) { return a.policySelectors(true) })
	handle("POST "+rest.PathPolicyValidate, a.policyValidate)
	handle("POST "+rest.PathPolicyTrace, a.policyTrace)
	handle("POST "+rest.PathPolicyWhy, a.policyWhy)
	handle("GET "+rest.PathService, func(*http.Request) (any, error) { return a.serviceList(), nil })
	handle("GET "+rest.PathLRP, func(*http.Request) (any, error) { return a.redirectList(), nil })
	handle("GET "+rest.PathConfig, func(*http.Request) (any, error) { return a.config(), nil })
	handle("PATCH "+rest.PathConfig, a.patchConfig)
	handle("GET "+rest.PathMap, func(*http.Request) (any, error) { return a.mapList() })
	handle("GET "+rest.PathMapName+"{name}", func(r *http.Request) (any, error) { return a.mapNamed(r.PathValue("name")) })
	handle("GET "+rest.PathMetrics, func(*http.Request) (any, error) { return a.metricList() })
	handle("GET "+rest.PathDB, func(*http.Request) (any, error) { return a.tableList(), nil })
	handle("GET "+rest.PathDBTable+"{table}", func(r *http.Request) (any, error) { return a.tableNamed(r.PathValue("table")) })
	handle("GET "+rest.PathBPF+"{name}", func(r *http.Request) (any, error) { return a.bpfDump(r.PathValue("name")) })
	mux.HandleFunc("GET "+rest.PathMonitor, a.monitor.serve)
	handle("/", func(r *http.Request) (any, error) {
		return nil, httpError{http.StatusNotFound, "there is no " + r.Method + " " + r.URL.Path + " here"}
	})
	return parseForm(mux)
}

// parseForm lets handlers read r.Form.
func parseForm(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			answer(w, nil, httpError{http.StatusBadRequest, err.Error()})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// cniCall decodes the request of a CNI call.
func cniCall[In any](fn func(context.Context, In) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var in In
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			return nil, failure(rest.CNIDecodeFailure, "read the request", err)
		}
		return fn(r.Context(), in)
	}
}

// httpError is an answer with a status and a text.
type httpError struct {
	status int
	text   string
}

func (e httpError) Error() string { return e.text }

// errDatapathDown says that the datapath is not up yet.
var errDatapathDown = httpError{http.StatusServiceUnavailable, "the datapath is not up yet"}

func notFound(format string, args ...any) error {
	return httpError{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

// answer writes out as JSON, or the error.
func answer(w http.ResponseWriter, out any, err error) {
	status := http.StatusOK
	var cniErr *rest.CNIError
	var httpErr httpError
	switch {
	case err == nil:
		if out == nil {
			w.WriteHeader(status)
			return
		}
	case errors.As(err, &cniErr):
		out, status = cniErr, http.StatusInternalServerError
		if cniErr.Code == rest.CNITryAgain || cniErr.Code == rest.CNIPluginNotAvailable {
			status = http.StatusServiceUnavailable
		}
	case errors.As(err, &httpErr):
		out, status = rest.Error(httpErr.text), httpErr.status
	default:
		out, status = rest.Error(err.Error()), http.StatusInternalServerError
	}
	content, err := json.Marshal(out)
	if err != nil {
		content, status = []byte(`"the answer cannot be encoded"`), http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(content, '\n'))
}

// datapath returns the datapath once it is up.
func (a *Agent) datapath() (Datapath, error) {
	select {
	case <-a.datapathUp:
		return a.dp, nil
	default:
		return nil, errDatapathDown
	}
}
