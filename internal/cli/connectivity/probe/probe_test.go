// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// servers runs all servers and returns their first port.
func servers(t *testing.T) uint16 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var port uint16
	for try := 0; ; try++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port = uint16(l.Addr().(*net.TCPAddr).Port)
		l.Close()
		go func() { done <- Serve(ctx, "here", port) }()
		if answers(t, port, done) {
			break
		}
		if try == 10 {
			t.Fatal("no three free ports in a row")
		}
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return port
}

func answers(t *testing.T, port uint16, done chan error) bool {
	for {
		select {
		case err := <-done:
			t.Log(err)
			return false
		default:
		}
		a := Try(t.Context(), Request{Kind: UDP, Host: "127.0.0.1", Port: port + EchoPort, Size: 1, Timeout: 50 * time.Millisecond})
		if a.Outcome == OK {
			return true
		}
	}
}

// session connects with a prober over pipes.
func session(t *testing.T) *Session {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := Answering(t.Context(), Hello{Name: "prober"}, inR, outW)
		outW.Close()
		done <- err
	}()
	s, err := NewSession(struct {
		io.Reader
		io.WriteCloser
	}{outR, inW})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestAProberTriesWhatItIsAsked(t *testing.T) {
	port, s := servers(t), session(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	for _, c := range []struct {
		r    Request
		want string
	}{
		{Request{Kind: HTTP, Host: "127.0.0.1", Port: port}, OK},
		{Request{Kind: HTTP, Host: "localhost", Family: 4, Port: port}, OK},
		{Request{Kind: Connect, Host: "127.0.0.1", Port: port}, OK},
		{Request{Kind: TCP, Host: "127.0.0.1", Port: port + EchoPort, Size: 300000}, OK},
		{Request{Kind: UDP, Host: "127.0.0.1", Port: port + EchoPort, Size: 60000}, OK},
		{Request{Kind: UDP, Host: "127.0.0.2", Port: port + EchoPort}, OK}, // answers come from the address that was asked
		{Request{Kind: FullMTU, Host: "127.0.0.1", Port: port + EchoPort}, OK},
		{Request{Kind: Resolve, Host: "localhost", Family: 4}, OK},
		{Request{Kind: HTTP, Host: "127.0.0.1", Port: closed}, Refused},
		{Request{Kind: UDP, Host: "127.0.0.1", Port: closed}, Refused},
		{Request{Kind: TCP, Host: "127.0.0.1", Port: port + StreamPort, Timeout: 100 * time.Millisecond}, Timeout},
		{Request{Kind: Resolve, Host: "no such name"}, Unresolved},
		{Request{Kind: "dance"}, Broken},
	} {
		got, err := s.Ask(t.Context(), c.r)
		if err != nil || got.Outcome != c.want {
			t.Errorf("%+v: got %+v, %v; want %s", c.r, got, err, c.want)
		}
		switch {
		case c.r.Kind == HTTP && c.want == OK && (got.Server != "here" || got.Source != "127.0.0.1"):
			t.Errorf("%+v: got %+v", c.r, got)
		case c.r.Kind == FullMTU && got.Size < 1280:
			t.Errorf("the MTU of lo: got %+v", got)
		case c.r.Kind == Resolve && c.want == OK && !slices.Contains(got.Addresses, "127.0.0.1"):
			t.Errorf("localhost: got %+v", got)
		}
	}
}

func TestAPingIsAnswered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("raw sockets are for root")
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		if a := Try(t.Context(), Request{Kind: Ping, Host: host, Size: 3000}); a.Outcome != OK {
			t.Errorf("%s: got %+v", host, a)
		}
	}
}

func TestMeasurements(t *testing.T) {
	port := servers(t)
	for kind, to := range map[string]uint16{RoundTrips: EchoPort, Connections: EchoPort, Stream: StreamPort} {
		a := Try(t.Context(), Request{Kind: kind, Host: "127.0.0.1", Port: port + to, Duration: 50 * time.Millisecond})
		m := a.Measure
		switch {
		case a.Outcome != OK:
			t.Errorf("%s: got %+v", kind, a)
		case kind == Stream && (m.Bytes < 1<<17 || m.PerSecond <= 0):
			t.Errorf("%s: got %+v", kind, m)
		case kind != Stream && (m.Count == 0 || m.P50 <= 0 || m.P99 < m.P50 || m.PerSecond <= 0):
			t.Errorf("%s: got %+v", kind, m)
		}
	}
}

func TestASessionSaysThatItsProberIsGone(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		_, _ = there.Write([]byte(`{"name":"x"}` + "\n"))
		_, _ = there.Read(make([]byte, 100))
		there.Close()
	}()
	s, err := NewSession(here)
	if err != nil || s.Hello.Name != "x" {
		t.Fatal(err, s)
	}
	for range 2 {
		if _, err := s.Ask(t.Context(), Request{Kind: HTTP}); err == nil || !strings.Contains(err.Error(), "prober") {
			t.Errorf("got %v", err)
		}
	}
	here, there = net.Pipe()
	there.Close()
	if _, err := NewSession(here); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}
