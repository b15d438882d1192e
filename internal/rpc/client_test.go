// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// serve runs a handler of net/http on a unix socket.
func serve(t *testing.T, h http.HandlerFunc) Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return Client{Socket: socket}
}

func TestACallCarriesJSONBothWays(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var in map[string]int
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "uri": r.URL.String(), "twice": in["n"] * 2})
	})
	var out struct {
		Method, URI string
		Twice       int
	}
	if err := c.Call(t.Context(), "PUT", "/v1/x?a=b", map[string]int{"n": 21}, &out); err != nil {
		t.Fatal(err)
	}
	if out.Method != "PUT" || out.URI != "/v1/x?a=b" || out.Twice != 42 {
		t.Errorf("got %+v", out)
	}
}

func TestALargeAnswerInChunksArrivesWhole(t *testing.T) {
	want := strings.Repeat("0123456789abcdef", 1<<16)
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		enc := json.NewEncoder(w)
		w.(http.Flusher).Flush()
		enc.Encode(want)
	})
	var got string
	if err := c.Call(t.Context(), "GET", "/", nil, &got); err != nil || got != want {
		t.Fatalf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestAnErrorAnswerKeepsStatusAndWords(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(404)
		io.WriteString(w, `"no such endpoint"`)
	})
	err := c.Call(t.Context(), "GET", "/", nil, nil)
	var e *Error
	if !errors.As(err, &e) || e.Status != 404 || e.Error() != "no such endpoint" {
		t.Errorf("got %v", err)
	}
}

func TestAStreamEndsWithItsContext(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	body, err := c.Stream(ctx, "GET", "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	r := bufio.NewReader(body)
	if line, err := r.ReadString('\n'); line != "first\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	cancel()
	if _, err := r.ReadString('\n'); err == nil {
		t.Error("the stream went on")
	}
}

func TestAMissingSocketIsUnreachable(t *testing.T) {
	err := Client{Socket: filepath.Join(t.TempDir(), "none")}.Call(t.Context(), "GET", "/", nil, nil)
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}

func TestATornAnswerIsAnError(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\":")
		conn.Close()
	})
	var out any
	if err := c.Call(t.Context(), "GET", "/", nil, &out); err == nil {
		t.Error("half an answer was taken for a whole one")
	}
}
