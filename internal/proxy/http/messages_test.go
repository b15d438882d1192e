// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// scripted is a server that gives a connection to the test.
func scripted(t *testing.T, serve func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return l.Addr().String()
}

// head reads a message's head as it is.
func readHead(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if b.WriteString(line); err != nil || line == "\r\n" {
			return b.String()
		}
	}
}

func TestARequestAndItsAnswerPassByteForByte(t *testing.T) {
	heads := make(chan string, 1)
	const answer = "HTTP/1.1 299 Very Good\r\nX-lower-UPPER:  spaced \r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
	p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
		heads <- readHead(r)
		io.WriteString(c, answer)
		io.Copy(io.Discard, r)
	}), rule(`{"path":"/a.*"}`))
	c := p.dial(t)
	const request = "GET /a?x=%7e|{}  HTTP/1.1\r\nHost: a\r\n\r\n"
	const good = "GET /a?x=%7e|{}&y=/../ HTTP/1.1\r\nhOST:\ta \r\nX-Odd:\xc3\xa9\t,\r\nAccept: */*\r\nX-Odd:\r\n\r\n"
	c.send(good)
	if got := <-heads; got != good {
		t.Errorf("the server got %q", got)
	}
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != answer {
		t.Errorf("the client got %q, %v", got, err)
	}
	c.send(request)
	if code, _ := c.answer("GET"); code != 400 {
		t.Errorf("two blanks: %d", code)
	}
}

func TestAnswersOfEveryFramingLeaveTheConnectionUsable(t *testing.T) {
	answers := []struct{ method, text, body string }{
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", ""},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n", ""},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", ""},
		{"GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", ""},
		{"GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "x"},
		{"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;ext=\"1\"\r\nWiki\r\n0005\r\npedia\r\n0\r\nDigest: x\r\n\r\n", "Wikipedia"},
		{"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold", "old"},
		{"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", "until the end"},
	}
	p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
		for _, a := range answers {
			readHead(r)
			for i := range len(a.text) { // in single bytes, as far as the kernel lets them be
				io.WriteString(c, a.text[i:i+1])
			}
		}
	}))
	c := p.dial(t)
	for _, a := range answers {
		c.send(a.method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
		for {
			res, err := nethttp.ReadResponse(c.Reader, &nethttp.Request{Method: a.method})
			if err != nil {
				t.Fatalf("%q: %v", a.text, err)
			}
			if res.StatusCode < 200 {
				continue
			}
			if body, err := io.ReadAll(res.Body); err != nil || string(body) != a.body {
				t.Errorf("%q: body %q, %v", a.text, body, err)
			}
			break
		}
	}
	c.ends()
	if list := p.records.await(t, len(answers)); list[4].HTTP.Code != 200 || list[1].HTTP.Code != 204 {
		t.Errorf("%+v", list)
	}
}

func TestWhatIsNotAnAnswerIsAnswered502(t *testing.T) {
	for _, text := range []string{
		"ICY 200 OK\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 200 OK\r\n folded\r\n\r\n", "", "HTTP/1.1 200 O",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100<<10) + "\r\n\r\n",
	} {
		p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
			readHead(r)
			io.WriteString(c, text)
		}))
		c := p.dial(t)
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if code, _ := c.answer("GET"); code != 502 {
			t.Errorf("%.40q: %d", text, code)
		}
		if r := p.records.await(t, 1)[0]; r.Verdict != l7.Rejected || r.HTTP.Code != 502 {
			t.Errorf("%.40q: %+v", text, r)
		}
		c.ends()
	}
}

func TestMoreThanAnAnswerEndsTheConnection(t *testing.T) {
	p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
		io.Copy(io.Discard, r)
	}))
	c := p.dial(t)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
	if code, body := c.answer("GET"); code != 200 || body != "x" {
		t.Errorf("%d %q", code, body)
	}
	c.ends()
}

func TestAClientThatWaitsFor100ContinueGetsIt(t *testing.T) {
	p := through(t, serverOf(t, echo), rule(`{"path":"/ok"}`))
	c := p.dial(t)
	c.send("POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if head := readHead(c.Reader); !strings.HasPrefix(head, "HTTP/1.1 100 ") {
		t.Fatalf("%q", head)
	}
	c.send("later")
	if code, body := c.answer("POST"); code != 200 || body != "POST /ok later" {
		t.Errorf("%d %q", code, body)
	}
	c.send("POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if code, _ := c.answer("POST"); code != 403 {
		t.Errorf("denied: %d", code)
	}
	c.ends()
}

func TestAServerMayAnswerBeforeTheBodyIsThere(t *testing.T) {
	p := through(t, serverOf(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(413)
	}))
	c := p.dial(t)
	c.send("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin")
	if code, _ := c.answer("POST"); code != 413 {
		t.Errorf("%d", code)
	}
	c.ends()
}

func TestLargeBodiesPassBothWaysInEveryFraming(t *testing.T) {
	p := through(t, serverOf(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		w.Write(body)
	}))
	c := clientOf(t)
	for _, size := range []int{0, 1, 10 << 10, bufferSize - 200, bufferSize, 100 << 10, 5 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		for _, path := range []string{"/known", "/chunked"} {
			for _, reader := range []io.Reader{bytes.NewReader(body), io.MultiReader(bytes.NewReader(body))} {
				if code, got := do(t, c, "POST", "http://"+p.addr+path, reader); code != 200 || got != string(body) {
					t.Errorf("%s %d bytes: %d, %d bytes", path, size, code, len(got))
				}
			}
		}
	}
}

func TestWebSocketsPassBothWaysAndOtherUpgradesAreTakenOut(t *testing.T) {
	p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
		head := readHead(r)
		if !strings.Contains(head, "Upgrade: ") {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(head), head)
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst")
		io.Copy(c, r)
		io.WriteString(c, "last")
	}), rule(`{"path":"/chat"}`))
	c := p.dial(t)
	c.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	if head := readHead(c.Reader); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("%q", head)
	}
	c.send(" GET /other HTTP/1.1\r\n\r\n\x00\xff")
	c.CloseWrite()
	if text, err := io.ReadAll(c); err != nil || string(text) != "firstearly GET /other HTTP/1.1\r\n\r\n\x00\xfflast" {
		t.Errorf("%q, %v", text, err)
	}
	if r := p.records.await(t, 1)[0]; r.HTTP.Code != 101 || r.Verdict != l7.Forwarded {
		t.Errorf("%+v", r)
	}
	for _, upgrade := range []string{"h2c", "websocket, h2c", "TLS/1.0", "websocket\r\nUpgrade: h2c"} {
		c = p.dial(t)
		c.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, keep-alive\r\nUpgrade: " + upgrade + "\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
		if code, head := c.answer("GET"); code != 200 || head != "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" {
			t.Errorf("%s: %d %q", upgrade, code, head)
		}
	}
}

func TestConnectBecomesATunnelWhenTheServerAgrees(t *testing.T) {
	p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 Connected\r\n\r\n")
		io.Copy(c, r)
	}), rule(`{"method":"CONNECT","host":"good:443"}`))
	c := p.dial(t)
	c.send("CONNECT bad:443 HTTP/1.1\r\nHost: bad\r\n\r\n")
	if code, _ := c.answer("CONNECT"); code != 403 {
		t.Errorf("denied: %d", code)
	}
	c = p.dial(t)
	c.send("CONNECT good:443 HTTP/1.1\r\nHost: good:443\r\n\r\n")
	readHead(c.Reader)
	c.send("\x16\x03\x01")
	c.CloseWrite()
	if text, err := io.ReadAll(c); err != nil || string(text) != "\x16\x03\x01" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestAClientThatSendsNoMoreStillGetsItsAnswer(t *testing.T) {
	p := through(t, serverOf(t, echo))
	c := p.dial(t)
	c.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
	c.CloseWrite()
	if code, body := c.answer("GET"); code != 200 || body != "GET /a " {
		t.Errorf("%d %q", code, body)
	}
	c.ends()
}

func TestHTTP10IsAnsweredAsTheServerDoes(t *testing.T) {
	p := through(t, serverOf(t, echo), rule(`{"path":"/a"}`))
	c := p.dial(t)
	c.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	if code, body := c.answer("GET"); code != 200 || body != "GET /a " {
		t.Errorf("%d %q", code, body)
	}
	c.send("GET /no HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /a HTTP/1.0\r\n\r\n")
	if code, _ := c.answer("GET"); code != 403 {
		t.Errorf("denied: %d", code)
	}
	if code, _ := c.answer("GET"); code != 200 {
		t.Errorf("after: %d", code)
	}
	c.ends()
}

func TestAServerThatClosesAKeptConnectionIsConnectedToAgain(t *testing.T) {
	closed := make(chan struct{}, 1)
	p := limited(t, Limits{rested: 1}, scripted(t, func(c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
		c.Close()
		closed <- struct{}{}
	}))
	c := p.dial(t)
	for range 2 {
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\ny")
		if code, _ := c.answer("POST"); code != 200 {
			t.Errorf("%d", code)
		}
		<-closed
	}
}

func TestAnAnswerThatBreaksOffIsResetNotEnded(t *testing.T) {
	p := through(t, scripted(t, func(c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	}))
	c := p.dial(t)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	readHead(c.Reader)
	if text, err := io.ReadAll(c); err == nil {
		t.Errorf("%q, and an end as if it was whole", text)
	}
}

func TestSlowHeadsAndLargeHeadsAreRefused(t *testing.T) {
	p := limited(t, Limits{HeadTime: 50 * time.Millisecond}, serverOf(t, echo))
	c := p.dial(t)
	c.send("GET / HTTP/1.1\r\nHost:")
	if code, _ := c.answer("GET"); code != 408 {
		t.Errorf("slow: %d", code)
	}
	p = through(t, serverOf(t, echo))
	for text, want := range map[string]int{
		"X: " + strings.Repeat("a", 60<<10) + "\r\n": 200,
		"X: " + strings.Repeat("a", 70<<10) + "\r\n": 431,
		strings.Repeat("X: a\r\n", 99):               200,
		strings.Repeat("X: a\r\n", 100):              431,
	} {
		c = p.dial(t)
		c.send("GET / HTTP/1.1\r\nHost: a\r\n" + text + "\r\n")
		if code, _ := c.answer("GET"); code != want {
			t.Errorf("%d bytes: %d, expected %d", len(text), code, want)
		}
	}
}

func TestFieldsAreEditedAsRulesSay(t *testing.T) {
	const rules = `{"path":"/log","headerMatches":[{"name":"K","value":"v","mismatch":"LOG"}]},` +
		`{"path":"/add","headerMatches":[{"name":"K","value":"v","mismatch":"ADD"}]},` +
		`{"path":"/delete","headerMatches":[{"name":"K","value":"v","mismatch":"DELETE"}]},` +
		`{"path":"/replace","headerMatches":[{"name":"K","value":"v","mismatch":"REPLACE"}]},` +
		`{"path":"/must","headerMatches":[{"name":"K","value":"v"}]}`
	p := through(t, serverOf(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%v %s", r.Header["K"], body)
	}), rule(rules))
	c := p.dial(t)
	for _, x := range []struct {
		path, send string
		code       int
		want       string
		mismatches int
	}{
		{"/log", "w", 200, "[w] b", 1}, {"/log", "v", 200, "[v] b", 0},
		{"/add", "w", 200, "[w v] b", 1}, {"/add", "v", 200, "[v] b", 0},
		{"/delete", "w", 200, "[] b", 1}, {"/delete", "v", 200, "[v] b", 0},
		{"/replace", "w", 200, "[v] b", 1}, {"/replace", "v", 200, "[v] b", 0},
		{"/must", "w", 403, denied, 0}, {"/must", "v", 200, "[v] b", 0},
	} {
		c.send("POST " + x.path + " HTTP/1.1\r\nHost: a\r\nk: " + x.send + "\r\nContent-Length: 1\r\n\r\nb")
		if code, body := c.answer("POST"); code != x.code || body != x.want {
			t.Errorf("%s with %s: %d %q", x.path, x.send, code, body)
		}
	}
	list := p.records.await(t, 10)
	for i, want := range []int{1, 0, 1, 0, 1, 0, 1, 0, 0, 0} {
		if len(list[i].HTTP.Mismatches) != want {
			t.Errorf("record %d: %+v", i, list[i].HTTP)
		}
	}
}
