// SPDX-License-Identifier: Apache-2.0

// Package k8stest is an API server in memory, for tests of what talks to one.
//
// It stores any JSON object, checks resource versions and preconditions, keeps
// status apart where the real server does, and streams watches. It knows no
// schemas, rights or garbage collection.
package k8stest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/stentor-net/stentor/internal/k8s"
)

// withStatus are the plurals whose status has a path of its own.
var withStatus = []string{"nodes", "pods", "services", "ciliumnodes", "ciliumloadbalancerippools", "ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies", "clusternetworkpolicies", "customresourcedefinitions"}

// kinds by plural.
var kinds = map[string]string{
	"pods": "Pod", "nodes": "Node", "namespaces": "Namespace", "services": "Service", "endpointslices": "EndpointSlice", "servicecidrs": "ServiceCIDR",
	"networkpolicies": "NetworkPolicy", "clusternetworkpolicies": "ClusterNetworkPolicy", "leases": "Lease", "customresourcedefinitions": "CustomResourceDefinition",
	"ciliumendpoints": "CiliumEndpoint", "ciliumidentities": "CiliumIdentity", "ciliumnodes": "CiliumNode", "ciliumcidrgroups": "CiliumCIDRGroup",
	"ciliumlocalredirectpolicies": "CiliumLocalRedirectPolicy", "ciliumloadbalancerippools": "CiliumLoadBalancerIPPool",
	"ciliumnetworkpolicies": "CiliumNetworkPolicy", "ciliumclusterwidenetworkpolicies": "CiliumClusterwideNetworkPolicy",
}

// Object is decoded JSON.
type Object = map[string]any

// Server is the API server. mu guards all fields.
type Server struct {
	t    testing.TB
	http *httptest.Server

	mu      sync.Mutex
	changed *sync.Cond
	stopped bool
	version int
	objects map[string]Object // by path: group version / plural / namespace / name
	events  []event
	fail    func(method, path string) bool
	missing map[string]bool // plurals of kinds that are not defined
}

type event struct {
	version    int
	collection string
	kind       string
	object     Object
}

// New starts a server that stops with the test.
func New(t *testing.T) *Server {
	s := &Server{t: t, objects: map[string]Object{}}
	s.changed = sync.NewCond(&s.mu)
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.mu.Lock()
		s.stopped = true
		s.changed.Broadcast()
		s.mu.Unlock()
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Alone makes a server for a program that is no test, which serves it as an
// http.Handler. What fails a test panics there.
func Alone() *Server {
	s := &Server{t: noTest{}, objects: map[string]Object{}}
	s.changed = sync.NewCond(&s.mu)
	return s
}

type noTest struct{ testing.TB }

func (noTest) Helper()                           {}
func (noTest) Context() context.Context          { return context.Background() }
func (noTest) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (noTest) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// Client returns a client of the server.
func (s *Server) Client() *k8s.Client {
	c, err := k8s.NewClientForConfig(&rest.Config{
		Host:          s.http.URL,
		QPS:           -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/json"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Fail makes requests for which f is true end with status 503, and watches end;
// nil ends that.
func (s *Server) Fail(f func(method, path string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
	s.changed.Broadcast()
}

// Undefine makes requests for a kind, given by its plural, end with status 404,
// as before its definition is there; and Define ends that.
func (s *Server) Undefine(plural string) { s.define(plural, true) }

// Define ends what Undefine began.
func (s *Server) Define(plural string) { s.define(plural, false) }

func (s *Server) define(plural string, missing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing == nil {
		s.missing = map[string]bool{}
	}
	s.missing[plural] = missing
}

// Put stores a JSON object at a path such as
// "api/v1/namespaces/default/pods/a", as if somebody had created or updated it.
func (s *Server) Put(path, text string) {
	s.t.Helper()
	var object Object
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		s.t.Fatalf("%s: %v", path, err)
	}
	r, _ := parse("/" + path)
	meta := metadata(object)
	meta["name"] = r.name
	if r.namespace != "" {
		meta["namespace"] = r.namespace
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.objects[r.key()]
	if old != nil {
		meta["uid"] = metadata(old)["uid"]
	}
	s.store(r, object, old)
}

// Remove deletes the object at a path.
func (s *Server) Remove(path string) {
	r, _ := parse("/" + path)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(r)
}

// Object returns the object at a path, nil if there is none.
func (s *Server) Object(path string) Object {
	r, _ := parse("/" + path)
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.objects[r.key()])
}

// Names lists the names of the objects of a collection such as
// "apis/cilium.io/v2/ciliumidentities", sorted, with their namespace if any.
func (s *Server) Names(path string) []string {
	r, _ := parse("/" + path)
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(s.objects)) {
		if rest, ok := strings.CutPrefix(k, r.collection()+"/"); ok {
			out = append(out, strings.TrimPrefix(rest, "/"))
		}
	}
	return out
}

// waitLimit is how long Wait hopes: nothing here takes seconds on an idle machine.
const waitLimit = 30 * time.Second

// Wait blocks until the condition holds; it is asked after every change.
func (s *Server) Wait(what string, condition func() bool) {
	s.t.Helper()
	done := make(chan struct{})
	stop := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		select {
		case <-done:
		default:
			close(done)
		}
		s.changed.Broadcast()
	}
	defer stop()
	ctx, cancel := context.WithTimeout(s.t.Context(), waitLimit)
	defer cancel()
	go func() {
		select {
		case <-ctx.Done():
			stop()
		case <-done:
		}
	}()
	for {
		s.mu.Lock()
		version := s.version
		s.mu.Unlock()
		if condition() {
			return
		}
		s.mu.Lock()
		for s.version == version && ctx.Err() == nil {
			s.changed.Wait()
		}
		s.mu.Unlock()
		if ctx.Err() != nil {
			s.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// request is a parsed URL path.
type request struct {
	prefix, namespace, plural, name, sub string
}

func (r request) collection() string { return r.prefix + "/" + r.plural }
func (r request) key() string        { return r.collection() + "/" + r.namespace + "/" + r.name }

func parse(path string) (request, bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	n := 2 // api/v1
	if parts[0] == "apis" {
		n = 3
	}
	if len(parts) <= n {
		return request{}, false
	}
	r := request{prefix: strings.Join(parts[:n], "/")}
	parts = parts[n:]
	if parts[0] == "namespaces" && len(parts) > 2 {
		r.namespace, parts = parts[1], parts[2:]
	}
	r.plural = parts[0]
	if len(parts) > 1 {
		r.name = parts[1]
	}
	if len(parts) > 2 {
		r.sub = parts[2]
	}
	return r, true
}

// store keeps an object under a new version. The caller holds mu.
func (s *Server) store(r request, object, old Object) {
	s.version++
	meta := metadata(object)
	meta["resourceVersion"] = strconv.Itoa(s.version)
	if meta["uid"] == nil {
		meta["uid"] = fmt.Sprintf("uid-%d", s.version)
	}
	object["kind"], object["apiVersion"] = kinds[r.plural], strings.SplitN(r.prefix, "/", 2)[1]
	kind := "ADDED"
	if old != nil {
		kind = "MODIFIED"
	}
	if r.plural == "customresourcedefinitions" {
		object["status"] = Object{"conditions": []any{Object{"type": "Established", "status": "True"}}}
	}
	s.objects[r.key()] = object
	s.events = append(s.events, event{s.version, r.collection(), kind, clone(object)})
	s.changed.Broadcast()
}

// remove drops an object. The caller holds mu.
func (s *Server) remove(r request) {
	old := s.objects[r.key()]
	if old == nil {
		return
	}
	s.version++
	delete(s.objects, r.key())
	old = clone(old)
	metadata(old)["resourceVersion"] = strconv.Itoa(s.version)
	s.events = append(s.events, event{s.version, r.collection(), "DELETED", old})
	s.changed.Broadcast()
}

func metadata(object Object) Object {
	meta, ok := object["metadata"].(Object)
	if !ok {
		meta = Object{}
		object["metadata"] = meta
	}
	return meta
}

func clone(object Object) Object {
	if object == nil {
		return nil
	}
	raw, err := json.Marshal(object)
	if err != nil {
		panic(err) // it was decoded from JSON
	}
	var out Object
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return out
}

var _ http.Handler = (*Server)(nil)
