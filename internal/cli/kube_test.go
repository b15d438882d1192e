// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// fakeCluster is an API server that serves files, and runs `stentor dial` in
// the pods of agents by connecting to the fake agent of the pod's name.
func fakeCluster(t *testing.T, dir string, agents map[string]string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/kube-system/pods/{pod}/exec", func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query()["command"]; strings.Join(got, " ") != "stentor dial" {
			http.Error(w, fmt.Sprint("command ", got), http.StatusBadRequest)
			return
		}
		exec(w, r, agents[r.PathValue("pod")])
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		serveFile(w, filepath.Join(dir, r.URL.Path+".json"), selector(r))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// selector keeps only pods with the label that the request asks for.
func selector(r *http.Request) func([]byte) []byte {
	key, value, ok := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
	return func(content []byte) []byte {
		var list struct {
			Items []struct {
				Metadata struct{ Labels map[string]string } `json:"metadata"`
			} `json:"items"`
		}
		var raw struct {
			Items []json.RawMessage `json:"items"`
		}
		if !ok || json.Unmarshal(content, &list) != nil || json.Unmarshal(content, &raw) != nil {
			return content
		}
		kept := []json.RawMessage{}
		for i, item := range list.Items {
			if item.Metadata.Labels[key] == value {
				kept = append(kept, raw.Items[i])
			}
		}
		out, _ := json.Marshal(map[string]any{"items": kept})
		return out
	}
}

// exec joins the streams of a web socket with the agent's unix socket.
func exec(w http.ResponseWriter, r *http.Request, socket string) {
	const stdin, stdout, stderr, status = 0, 1, 2, 3
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {Binary: true, Channels: []wsstream.ChannelType{
		wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel,
	}}})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return
	}
	defer conn.Close()
	verdict := `{"status":"Success"}`
	agent, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Fprintln(streams[stderr], "error: no agent answers at", socket)
		verdict = `{"status":"Failure","message":"command terminated with exit code 1"}`
	} else {
		go func() { _, _ = io.Copy(agent, streams[stdin]); agent.Close() }()
		_, _ = io.Copy(streams[stdout], agent)
	}
	_, _ = io.WriteString(streams[status], verdict)
}

// serveFile answers with the file; one that is not there is unknown here.
func serveFile(w http.ResponseWriter, file string, change func([]byte) []byte) {
	content, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `"nothing of that name here"`)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if code, ok := strings.CutPrefix(string(content), "refuse "); ok {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, code)
		return
	}
	if change != nil {
		content = change(content)
	}
	_, _ = w.Write(content)
}

// fakeAgent serves the files below dir on a unix socket, and notes what it is
// asked to change in dir/patched.
func fakeAgent(t interface {
	Fatal(...any)
	Defer(func())
}, dir, socket string) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/monitor", func(w http.ResponseWriter, r *http.Request) {
		note(&mu, dir, "queries", []byte(r.URL.RawQuery))
		serveFile(w, filepath.Join(dir, "v1/monitor.json"), nil)
		w.(http.Flusher).Flush()
	})
	mux.HandleFunc("PATCH /v1/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		note(&mu, dir, "patched", body)
		serveFile(w, filepath.Join(dir, "v1/patch.json"), nil)
	})
	mux.HandleFunc("POST /v1/policy/{call}", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		note(&mu, dir, "posted", body)
		serveFile(w, filepath.Join(dir, r.URL.Path+".json"), nil)
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "" {
			note(&mu, dir, "queries", []byte(r.URL.RawQuery))
		}
		serveFile(w, filepath.Join(dir, strings.TrimSuffix(r.URL.Path, "/")+".json"), nil)
	})
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Defer(func() {
		server.Close()
		<-done
	})
}

func note(mu *sync.Mutex, dir, name string, line []byte) {
	mu.Lock()
	defer mu.Unlock()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s\n", line)
}
