// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// fakeJudge puts every connection under the same limits.
type fakeJudge struct {
	mu     sync.Mutex
	ruling l7.Ruling
	err    error
}

func (j *fakeJudge) Judge(l7.Connection) (l7.Ruling, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ruling, j.err
}

func (j *fakeJudge) Holds(_ l7.Connection, r *l7.Ruling) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return r.Generations == j.ruling.Generations
}

func (j *fakeJudge) set(r l7.Ruling) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r.Generations[0] = j.ruling.Generations[0] + 1
	j.ruling = r
}

type fakeRules map[uint32]*l7.Set

func (r fakeRules) Set(n uint32) *l7.Set { return r[n] }

// records keeps what is recorded.
type records struct {
	mu   sync.Mutex
	list []l7.Record
	news chan struct{}
}

func (r *records) Record(in *l7.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, http := *in, *in.HTTP
	http.Mismatches = slices.Clone(http.Mismatches)
	out.HTTP = &http
	r.list = append(r.list, out)
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// await returns the records once there are n.
func (r *records) await(t *testing.T, n int) []l7.Record {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		list := slices.Clone(r.list)
		r.mu.Unlock()
		if len(list) >= n {
			return list
		}
		select {
		case <-r.news:
		case <-late:
			t.Fatalf("%d records after 10 s, expected %d: %+v", len(list), n, list)
		}
	}
}

type dialTo string

func (d dialTo) Dial(ctx context.Context, _ l7.Connection) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", string(d))
}

// rig is a proxy between a client of the test and a server.
type rig struct {
	*Server
	addr    string
	records *records
	judge   *fakeJudge
	errs    chan error // of Serve
}

// through starts a proxy to a server with rules as lines; no lines: no limits.
func through(t *testing.T, server string, lines ...string) *rig {
	t.Helper()
	return limited(t, Limits{}, server, lines...)
}

func limited(t *testing.T, limits Limits, server string, lines ...string) *rig {
	t.Helper()
	r := &rig{records: &records{news: make(chan struct{}, 1)}, judge: &fakeJudge{}, errs: make(chan error, 10000)}
	rules := fakeRules{}
	if len(lines) > 0 {
		set, err := l7.Compile(7, lines, nil)
		if err != nil {
			t.Fatal(err)
		}
		rules[7] = set
		r.judge.ruling.Limits = []l7.Limit{{Side: l7.Ingress, Endpoint: 5, Set: 7}}
	}
	r.Server = &Server{Judge: r.judge, Rules: rules, Dialer: dialTo(server), Recorder: r.records, Limits: limits}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				id := l7.Connection{Client: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), Server: netip.MustParseAddrPort(server), Protocol: 6}
				r.errs <- r.Serve(ctx, conn, id)
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); all.Wait() })
	return r
}

// rule is a line with HTTP rules as JSON.
func rule(rules string) string {
	return `{"ports":[{"port":"80","protocol":"TCP"}],"rules":{"http":[` + rules + `]}}`
}

func serverOf(t *testing.T, h nethttp.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func clientOf(t *testing.T) *nethttp.Client {
	tr := &nethttp.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &nethttp.Client{Transport: tr, Timeout: 20 * time.Second}
}

// do sends a request and returns code and body.
func do(t *testing.T, c *nethttp.Client, method, url string, body io.Reader) (int, string) {
	t.Helper()
	req, err := nethttp.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func TestAllowedRequestsPassAndOthersAreAnswered403OnTheSameConnection(t *testing.T) {
	server := serverOf(t, func(w nethttp.ResponseWriter, r *nethttp.Request) { io.WriteString(w, "Ship landed\n") })
	p := through(t, server, rule(`{"method":"POST","path":"/v1/request-landing"}`))
	c := clientOf(t)
	for range 3 {
		if code, body := do(t, c, "POST", "http://"+p.addr+"/v1/request-landing", nil); code != 200 || body != "Ship landed\n" {
			t.Errorf("allowed: %d %q", code, body)
		}
		if code, body := do(t, c, "PUT", "http://"+p.addr+"/v1/exhaust-port", strings.NewReader("torpedo")); code != 403 || body != "Access denied\r\n" {
			t.Errorf("denied: %d %q", code, body)
		}
	}
	list := p.records.await(t, 6)
	first, second := list[0], list[1]
	for i, r := range list {
		if r.Connection != first.Connection {
			t.Errorf("record %d is of another connection", i)
		}
	}
	if first.Verdict != l7.Forwarded || first.HTTP.Code != 200 || first.HTTP.Method != "POST" || first.HTTP.Path != "/v1/request-landing" || first.HTTP.Host != p.addr || first.Latency <= 0 {
		t.Errorf("allowed: %+v %+v", first, first.HTTP)
	}
	if second.Verdict != l7.Denied || second.HTTP.Code != 403 || second.Limit.Set != 7 || second.Reason == "" {
		t.Errorf("denied: %+v %+v", second, second.HTTP)
	}
}

// raw is a client that writes bytes and reads answers.
type raw struct {
	t *testing.T
	*net.TCPConn
	*bufio.Reader
}

func (p *rig) dial(t *testing.T) *raw {
	t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func (r *raw) Read(b []byte) (int, error) { return r.Reader.Read(b) }

func (r *raw) send(text string) {
	r.t.Helper()
	if _, err := io.WriteString(r.TCPConn, text); err != nil {
		r.t.Fatal(err)
	}
}

// answer reads one to a request of the method.
func (r *raw) answer(method string) (int, string) {
	r.t.Helper()
	res, err := nethttp.ReadResponse(r.Reader, &nethttp.Request{Method: method})
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// ends expects that nothing more comes.
func (r *raw) ends() {
	r.t.Helper()
	if rest, err := io.ReadAll(r.Reader); err != nil || len(rest) > 0 {
		r.t.Errorf("the connection did not end: %q, %v", rest, err)
	}
}

func echo(w nethttp.ResponseWriter, r *nethttp.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
}

func TestPipelinedRequestsAreAnsweredInOrderWithDeniedOnesInPlace(t *testing.T) {
	p := through(t, serverOf(t, echo), rule(`{"path":"/ok.*"}`))
	c := p.dial(t)
	c.send("GET /ok1 HTTP/1.1\r\nHost: a\r\n\r\n" +
		"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345" +
		"POST /ok2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" +
		"HEAD /ok3 HTTP/1.1\r\nHost: a\r\n\r\n" +
		"GET /ok4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	for _, want := range []struct {
		method string
		code   int
		body   string
	}{{"GET", 200, "GET /ok1 "}, {"POST", 403, "Access denied\r\n"}, {"POST", 200, "POST /ok2 abc"}, {"HEAD", 200, ""}, {"GET", 200, "GET /ok4 "}} {
		if code, body := c.answer(want.method); code != want.code || body != want.body {
			t.Errorf("%d %q, expected %d %q", code, body, want.code, want.body)
		}
	}
	c.ends()
}

func TestRulesThatAreNotKnownAllowNothing(t *testing.T) {
	p := through(t, serverOf(t, echo))
	p.judge.set(l7.Ruling{Limits: []l7.Limit{{Set: 9}}})
	if code, _ := do(t, clientOf(t), "GET", "http://"+p.addr+"/", nil); code != 403 {
		t.Errorf("code %d", code)
	}
	if r := p.records.await(t, 1)[0]; r.Verdict != l7.Denied || r.Limit.Set != 9 || r.Reason != "the rules are not known" {
		t.Errorf("%+v", r)
	}
}

func TestAChangeOfPolicyHoldsForTheNextRequestOfAConnection(t *testing.T) {
	p := through(t, serverOf(t, echo), rule(`{"path":"/a"}`))
	c := p.dial(t)
	c.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	if code, _ := c.answer("GET"); code != 200 {
		t.Errorf("before: %d", code)
	}
	p.judge.set(l7.Ruling{Limits: []l7.Limit{{Set: 7}, {Set: 8}}})
	c.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	if code, _ := c.answer("GET"); code != 403 {
		t.Errorf("under two limits: %d", code)
	}
	p.judge.set(l7.Ruling{Denied: true})
	c.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	c.ends()
	if err := <-p.errs; err == nil {
		t.Error("no error for a connection that is denied")
	}
}

func TestAConnectionThatNobodyKnowsEnds(t *testing.T) {
	p := through(t, serverOf(t, echo))
	p.judge.err = errors.New("no row")
	c := p.dial(t)
	c.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	c.ends()
}

func TestAServerThatCannotBeReachedIsAnswered503(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	p := through(t, addr)
	c := p.dial(t)
	for range 2 {
		c.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
		if code, _ := c.answer("POST"); code != 503 {
			t.Errorf("code %d", code)
		}
	}
}
