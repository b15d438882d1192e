// SPDX-License-Identifier: Apache-2.0

package k8stest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// ServeHTTP answers as an API server does.
func (s *Server) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	s.mu.Lock()
	fails := s.fails(q)
	s.mu.Unlock()
	if fails {
		refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "told to fail")
		return
	}
	if q.URL.Path == "/version" {
		answer(w, http.StatusOK, Object{"gitVersion": "v1.36.3"})
		return
	}
	r, ok := parse(q.URL.Path)
	if !ok {
		refuse(w, http.StatusNotFound, "NotFound", q.URL.Path)
		return
	}
	s.mu.Lock()
	missing := s.missing[r.plural]
	s.mu.Unlock()
	if missing {
		refuse(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource")
		return
	}
	if q.Method == http.MethodGet && r.name == "" && q.URL.Query().Get("watch") != "" {
		s.watch(w, q, r)
		return
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch q.Method {
	case http.MethodGet:
		s.get(w, q, r)
	case http.MethodPost:
		s.create(w, r, body)
	case http.MethodPut:
		s.update(w, r, body)
	case http.MethodPatch:
		s.patch(w, r, q.Header.Get("Content-Type"), body)
	case http.MethodDelete:
		s.delete(w, r, body)
	}
}

func (s *Server) get(w http.ResponseWriter, q *http.Request, r request) {
	if r.name != "" {
		if object := s.objects[r.key()]; object != nil {
			answer(w, http.StatusOK, object)
		} else {
			refuse(w, http.StatusNotFound, "NotFound", r.name)
		}
		return
	}
	items := []any{}
	for _, object := range s.selected(q, r) {
		items = append(items, object)
	}
	answer(w, http.StatusOK, Object{
		"kind": kinds[r.plural] + "List", "apiVersion": strings.SplitN(r.prefix, "/", 2)[1],
		"metadata": Object{"resourceVersion": strconv.Itoa(s.version)}, "items": items,
	})
}

// selected returns the objects of a collection that the field selector takes.
// The caller holds mu.
func (s *Server) selected(q *http.Request, r request) []Object {
	var keys []string
	for k, object := range s.objects {
		if strings.HasPrefix(k, r.collection()+"/"+r.namespace) && selects(q, object) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var out []Object
	for _, k := range keys {
		out = append(out, s.objects[k])
	}
	return out
}

// selects tells whether every term of the field selector, PATH=VALUE or
// PATH!=VALUE, takes the object.
func selects(q *http.Request, object Object) bool {
	selector := q.URL.Query().Get("fieldSelector")
	if selector == "" {
		return true
	}
	for term := range strings.SplitSeq(selector, ",") {
		path, want, _ := strings.Cut(term, "=")
		path, other := strings.CutSuffix(path, "!")
		var value any = object
		for name := range strings.SplitSeq(path, ".") {
			node, _ := value.(Object)
			value = node[name]
		}
		if (value == want) == other {
			return false
		}
	}
	return true
}

func (s *Server) create(w http.ResponseWriter, r request, body []byte) {
	object := decode(w, body)
	if object == nil {
		return
	}
	r.name, _ = metadata(object)["name"].(string)
	if s.objects[r.key()] != nil {
		refuse(w, http.StatusConflict, "AlreadyExists", r.name)
		return
	}
	if slices.Contains(withStatus, r.plural) {
		delete(object, "status")
	}
	s.store(r, object, nil)
	answer(w, http.StatusCreated, object)
}

func (s *Server) update(w http.ResponseWriter, r request, body []byte) {
	object, old := decode(w, body), s.objects[r.key()]
	switch version := metadata(object)["resourceVersion"]; {
	case old == nil:
		refuse(w, http.StatusNotFound, "NotFound", r.name)
		return
	case version != nil && version != "" && version != metadata(old)["resourceVersion"]:
		refuse(w, http.StatusConflict, "Conflict", r.name)
		return
	}
	s.replace(w, r, object, old)
}

// replace stores an object, but of its two halves only the addressed one.
func (s *Server) replace(w http.ResponseWriter, r request, object, old Object) {
	if slices.Contains(withStatus, r.plural) {
		if r.sub == "status" {
			status := object["status"]
			object = clone(old)
			object["status"] = status
		} else if old["status"] != nil {
			object["status"] = old["status"]
		} else {
			delete(object, "status")
		}
	}
	metadata(object)["uid"] = metadata(old)["uid"]
	s.store(r, object, old)
	answer(w, http.StatusOK, object)
}

func (s *Server) patch(w http.ResponseWriter, r request, kind string, body []byte) {
	old := s.objects[r.key()]
	if old == nil {
		refuse(w, http.StatusNotFound, "NotFound", r.name)
		return
	}
	object := clone(old)
	if kind == "application/json-patch+json" {
		if err := jsonPatch(object, body); err != nil {
			refuse(w, http.StatusUnprocessableEntity, "Invalid", err.Error())
			return
		}
	} else {
		patch := decode(w, body)
		version, _ := metadata(patch)["resourceVersion"].(string)
		if version != "" && version != metadata(old)["resourceVersion"] {
			refuse(w, http.StatusConflict, "Conflict", r.name)
			return
		}
		mergePatch(object, patch)
	}
	s.replace(w, r, object, old)
}

func (s *Server) delete(w http.ResponseWriter, r request, body []byte) {
	old := s.objects[r.key()]
	if old == nil {
		refuse(w, http.StatusNotFound, "NotFound", r.name)
		return
	}
	var options struct {
		Preconditions struct{ UID, ResourceVersion string }
	}
	_ = json.Unmarshal(body, &options) // no body, no preconditions
	only, meta := options.Preconditions, metadata(old)
	if (only.UID != "" && only.UID != meta["uid"]) || (only.ResourceVersion != "" && only.ResourceVersion != meta["resourceVersion"]) {
		refuse(w, http.StatusConflict, "Conflict", r.name)
		return
	}
	s.remove(r)
	answer(w, http.StatusOK, Object{"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

// fails tells whether a request was told to; s.mu is held.
func (s *Server) fails(q *http.Request) bool { return s.fail != nil && s.fail(q.Method, q.URL.Path) }

// watch streams what changes, first what is there if asked to.
func (s *Server) watch(w http.ResponseWriter, q *http.Request, r request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	encoder, flusher := json.NewEncoder(w), w.(http.Flusher)
	go func() { <-q.Context().Done(); s.mu.Lock(); s.changed.Broadcast(); s.mu.Unlock() }()

	s.mu.Lock()
	defer s.mu.Unlock()
	since, _ := strconv.Atoi(q.URL.Query().Get("resourceVersion"))
	if q.URL.Query().Get("sendInitialEvents") == "true" {
		since = s.version
		for _, object := range s.selected(q, r) {
			_ = encoder.Encode(Object{"type": "ADDED", "object": object})
		}
		_ = encoder.Encode(Object{"type": "BOOKMARK", "object": Object{
			"kind": "Bookmark", "apiVersion": "v1",
			"metadata": Object{"resourceVersion": strconv.Itoa(since), "annotations": Object{"k8s.io/initial-events-end": "true"}},
		}})
	}
	for next := 0; q.Context().Err() == nil && !s.stopped && !s.fails(q); {
		for ; next < len(s.events); next++ {
			e := s.events[next]
			if e.version > since && e.collection == r.collection() && selects(q, e.object) {
				if err := encoder.Encode(Object{"type": e.kind, "object": e.object}); err != nil {
					return
				}
			}
		}
		flusher.Flush()
		s.changed.Wait()
	}
}

func decode(w http.ResponseWriter, body []byte) Object {
	var object Object
	if err := json.Unmarshal(body, &object); err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", fmt.Sprintf("%v: %q", err, body))
		return nil
	}
	return object
}

func answer(w http.ResponseWriter, code int, object Object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object) // the client went away
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	answer(w, code, Object{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
	})
}
