// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stentor-net/stentor/api/rest"
)

// call is a request that the fake agent got.
type call struct {
	Path string
	Req  rest.CNIRequest
	GC   rest.CNIGCRequest
}

// fakeAgent answers on a unix socket as the agent does.
type fakeAgent struct {
	socket string
	server *http.Server

	mu     sync.Mutex
	calls  []call
	refuse map[string]*rest.CNIError // by path
}

func (a *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got := call{Path: r.URL.Path}
	dec := json.NewDecoder(r.Body)
	if r.URL.Path == rest.PathCNIGC {
		_ = dec.Decode(&got.GC)
	} else {
		_ = dec.Decode(&got.Req)
	}
	a.mu.Lock()
	a.calls = append(a.calls, got)
	refusal := a.refuse[r.URL.Path]
	a.mu.Unlock()
	if refusal != nil {
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(refusal)
		return
	}
	if r.URL.Path == rest.PathCNIAdd {
		_ = json.NewEncoder(w).Encode(rest.CNIResult{
			HostIfName: "st0001", HostMAC: "02:00:00:00:00:01", MAC: "02:00:00:00:00:02", MTU: 1450,
			Addresses: []rest.CNIAddress{
				{Address: "10.0.1.7/32", Gateway: "10.0.1.1"},
				{Address: "fd00:1::7/128", Gateway: "fd00:1::1"},
			},
			Routes: []rest.CNIRoute{{Dst: "0.0.0.0/0", GW: "10.0.1.1"}, {Dst: "::/0", GW: "fd00:1::1", MTU: 1400}},
		})
	}
}

func (a *fakeAgent) seen() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]call(nil), a.calls...)
}

// newAgent makes an agent that is not started yet.
func newAgent(t *testing.T) *fakeAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "cni") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &fakeAgent{socket: filepath.Join(dir, "stentor.sock"), refuse: map[string]*rest.CNIError{}}
}

func (a *fakeAgent) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: a}
	a.server = server
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
}
