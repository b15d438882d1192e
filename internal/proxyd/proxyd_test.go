// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/proxy/sock"
	"github.com/stentor-net/stentor/internal/proxy/wire"
)

// fakeKernel is a loopback address instead of the programs: whoever connects to
// its listener is taken for a client of the one server.
type fakeKernel struct {
	server string

	mu        sync.Mutex
	ruling    l7.Ruling
	unknown   bool
	udp       int        // descriptor of the listener
	listeners *Listeners // announced; nil: those of another proxy
	ready     chan struct{}
	closed    chan struct{}
	late      chan bool // Dial lingers, and says whether the tables were closed meanwhile; optional
}

func (k *fakeKernel) Judge(l7.Connection) (l7.Ruling, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unknown {
		return l7.Ruling{}, errors.New("nobody knows it")
	}
	return k.ruling, nil
}

func (k *fakeKernel) Holds(l7.Connection, *l7.Ruling) bool { return false }

func (k *fakeKernel) Listen() (*Listeners, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	udp, err := receive(l.Addr().(*net.TCPAddr).Port)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.udp = udp.FD
	return &Listeners{TCP: []net.Listener{l}, UDP: []*sock.Datagrams{udp}}, nil
}

// receive is a socket that gets what clients of the test send, and answers them.
func receive(port int) (*sock.Datagrams, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &sock.Datagrams{FD: fd, Port: uint16(port)}, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}))
}

func (k *fakeKernel) Answers(bool) (fd int, raw bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fd, err = unix.FcntlInt(uintptr(k.udp), unix.F_DUPFD_CLOEXEC, 0)
	return fd, false, err
}

func (k *fakeKernel) Upstream(_, _ netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	to := netip.MustParseAddrPort(k.server)
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
}

func (k *fakeKernel) Announce(l *Listeners) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listeners = l
	close(k.ready)
	return nil
}

func (k *fakeKernel) Announced(l *Listeners) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.listeners == l, nil
}

func (k *fakeKernel) Dial(ctx context.Context, _ l7.Connection) (net.Conn, error) {
	if k.late != nil {
		k.late <- false
		<-ctx.Done()
		select {
		case <-k.closed:
			k.late <- true
		case <-time.After(100 * time.Millisecond):
			k.late <- false
		}
		return nil, ctx.Err()
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", k.server)
}

func (k *fakeKernel) Close() error {
	close(k.closed)
	return nil
}

func (k *fakeKernel) addr() string { return k.listeners.TCP[0].Addr().String() }

func (k *fakeKernel) rule(r l7.Ruling) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ruling = r
}

// setup is a proxy in front of a server that says which path was asked for.
type setup struct {
	t      *testing.T
	kernel *fakeKernel
	opts   Options
	end    func() // tells the proxy to end, and waits
}

func start(t *testing.T, dir string, ruling l7.Ruling) *setup {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Method+" "+r.URL.Path) }))
	t.Cleanup(server.Close)
	return startAt(t, dir, ruling, server.Listener.Addr().String())
}

// startAt is a proxy in front of a server.
func startAt(t *testing.T, dir string, ruling l7.Ruling, server string) *setup {
	t.Helper()
	s := &setup{t: t, kernel: &fakeKernel{server: server, ruling: ruling, ready: make(chan struct{}), closed: make(chan struct{})}}
	s.opts = Options{Socket: filepath.Join(dir, "s"), StateDir: dir, ReadyFile: filepath.Join(dir, "ready"), Drain: 20 * time.Second, Version: "v1"}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx, slog.New(slog.DiscardHandler), s.opts, s.kernel); err != nil {
			t.Error(err)
		}
	}()
	s.end = func() { cancel(); <-done }
	t.Cleanup(func() {
		s.kernel.mu.Lock()
		s.kernel.listeners = nil
		s.kernel.mu.Unlock()
		s.end()
	})
	<-s.kernel.ready
	return s
}

// ask sends one request over a new connection; the error is the connection's.
func (s *setup) ask(method, path string) (string, error) {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://"+s.kernel.addr()+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Close = true
	r, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return strings.TrimSpace(string(body)), err
}

var landing = []l7.Source{{Number: 70000, Lines: []string{`{"ports":[{"port":"80"}],"rules":{"http":[{"method":"POST","path":"/v1/request-landing"}]}}`}}}

func limited(set uint32) l7.Ruling {
	return l7.Ruling{Limits: []l7.Limit{{Side: l7.Ingress, Endpoint: 7, Set: set}}}
}

// serveRules is an agent's end of the socket.
func serveRules(t *testing.T, socket string, sets []l7.Source) *wire.Server {
	t.Helper()
	w := wire.NewServer()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Serve(ctx, socket) }()
	t.Cleanup(func() { cancel(); <-done })
	version := w.Set(sets)
	within, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	for {
		changed := w.Changed()
		if n, _ := w.Proxies(); n > 0 {
			break
		}
		select {
		case <-changed:
		case <-within.Done():
			t.Fatal("no proxy came")
		}
	}
	if err := w.Wait(within, version); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestRequestsAreJudgedByTheRulesOfTheAgent(t *testing.T) {
	s := start(t, t.TempDir(), limited(70000))
	if got, err := s.ask("POST", "/v1/request-landing"); err == nil {
		t.Errorf("%q under rules that are not known", got)
	}
	w := serveRules(t, s.opts.Socket, landing)
	records := make(chan *l7.Record, 4)
	w.Record = func(r *l7.Record) { records <- r }
	if got, err := s.ask("POST", "/v1/request-landing"); err != nil || got != "POST /v1/request-landing" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := s.ask("PUT", "/v1/exhaust-port"); err != nil || got != "Access denied" {
		t.Errorf("%q, %v", got, err)
	}
	if r := <-records; r.Verdict != l7.Forwarded || r.HTTP.Path != "/v1/request-landing" || r.HTTP.Code != 200 {
		t.Errorf("%+v", r)
	}
	if r := <-records; r.Verdict != l7.Denied || r.HTTP.Method != "PUT" || r.HTTP.Code != 403 || r.Limit.Endpoint != 7 {
		t.Errorf("%+v", r)
	}
}

func TestTheLastRulesHoldWithoutAnAgent(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, limited(70000))
	serveRules(t, first.opts.Socket, landing)
	first.kernel.mu.Lock()
	first.kernel.listeners = nil // another proxy takes over
	first.kernel.mu.Unlock()
	first.end()
	second := start(t, dir, limited(70000))
	if got, err := second.ask("POST", "/v1/request-landing"); err != nil || got != "POST /v1/request-landing" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := second.ask("PUT", "/v1/exhaust-port"); err != nil || got != "Access denied" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDamagedRulesAreNotUsed(t *testing.T) {
	s := store(filepath.Join(t.TempDir(), "rules"))
	if sets, err := s.load(); err != nil || sets != nil {
		t.Errorf("without a file: %v, %v", sets, err)
	}
	if err := s.save(landing); err != nil {
		t.Fatal(err)
	}
	if sets, err := s.load(); err != nil || len(sets) != 1 || sets[0].Lines[0] != landing[0].Lines[0] {
		t.Errorf("%v, %v", sets, err)
	}
	content, err := os.ReadFile(string(s))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": content[:len(content)-1], "changed": []byte(strings.Replace(string(content), "POST", "GETX", 1)), "without a head": content[65:],
	} {
		if err := os.WriteFile(string(s), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if sets, err := s.load(); err == nil || sets != nil {
			t.Errorf("%s: %v, %v", name, sets, err)
		}
	}
}

func TestWhatNothingLimitsIsPassedOn(t *testing.T) {
	s := start(t, t.TempDir(), l7.Ruling{})
	if got, err := s.ask("PUT", "/anything"); err != nil || got != "PUT /anything" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatIsPassedOnEndsWhenRulesComeToApply(t *testing.T) {
	s := start(t, t.TempDir(), l7.Ruling{})
	serveRules(t, s.opts.Socket, landing)
	conn, err := net.Dial("tcp", s.kernel.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /one HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(conn)
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	s.kernel.rule(limited(70000))
	if _, err := io.Copy(io.Discard, r); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection was not reset: %v", err)
	}
}

func TestWhatNobodySentOrAllowsIsReset(t *testing.T) {
	s := start(t, t.TempDir(), l7.Ruling{Denied: true})
	if got, err := s.ask("GET", "/"); err == nil {
		t.Errorf("a denied connection was answered: %q", got)
	}
	s.kernel.rule(l7.Ruling{})
	s.kernel.mu.Lock()
	s.kernel.unknown = true
	s.kernel.mu.Unlock()
	if got, err := s.ask("GET", "/"); err == nil {
		t.Errorf("a connection that no program sent was answered: %q", got)
	}
}

func TestConnectionsEndWithTheirOwnEndWhenAnotherProxyTakesOver(t *testing.T) {
	s := start(t, t.TempDir(), l7.Ruling{})
	conn, err := net.Dial("tcp", s.kernel.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	say := func() {
		t.Helper()
		io.WriteString(conn, "GET /one HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "GET /one" {
			t.Fatalf("%q, %v", body, err)
		}
	}
	say()
	ended := make(chan struct{})
	go func() { s.end(); close(ended) }()
	say() // told to end, but nobody has taken over
	s.kernel.mu.Lock()
	s.kernel.listeners = nil
	s.kernel.mu.Unlock()
	say()
	select {
	case <-ended:
		t.Fatal("the proxy ended before its connection")
	default:
	}
	conn.Close()
	<-ended
}

func TestClientsUnderHTTPRulesAreAskedToComeAgainWhenAnotherProxyTakesOver(t *testing.T) {
	s := start(t, t.TempDir(), limited(70000))
	serveRules(t, s.opts.Socket, landing)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	url := "http://" + s.kernel.addr() + "/v1/request-landing"
	land := func() *http.Response {
		t.Helper()
		req, err := http.NewRequest("POST", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, r.Body)
		if r.Body.Close(); err != nil || r.StatusCode != 200 {
			t.Fatal(r.Status, err)
		}
		return r
	}
	if r := land(); r.Close {
		t.Fatal("a connection is ended before there is a reason")
	}
	s.kernel.mu.Lock()
	s.kernel.listeners = nil // another proxy takes over
	s.kernel.mu.Unlock()
	ended := make(chan struct{})
	go func() { s.end(); close(ended) }()
	for !land().Close { // until it knows of the other
		select {
		case <-ended:
			t.Fatal("the proxy ended before its connection")
		default:
		}
	}
	<-ended
}

// The tables are memory of the kernel: whoever asks them after they are closed
// ends the process.
func TestTheTablesAreOpenWhileAConnectionIsServed(t *testing.T) {
	k := &fakeKernel{ready: make(chan struct{}), closed: make(chan struct{}), late: make(chan bool, 2)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		dir := t.TempDir()
		ended <- run(ctx, slog.New(slog.DiscardHandler), Options{Socket: filepath.Join(dir, "s"), StateDir: dir, Drain: time.Millisecond}, k)
	}()
	<-k.ready
	conn, err := net.Dial("tcp", k.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-k.late // its server is dialled
	cancel()
	if <-k.late {
		t.Error("the tables were closed while a connection was served")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAddressesOfSocketsHaveOneForm(t *testing.T) {
	for in, want := range map[string]string{"[::ffff:10.0.0.1]:80": "10.0.0.1:80", "[fe80::1%eth0]:80": "[fe80::1]:80", "10.0.0.1:80": "10.0.0.1:80"} {
		if got := addrPort(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(in))); got.String() != want {
			t.Errorf("%s is %v", in, got)
		}
	}
}
