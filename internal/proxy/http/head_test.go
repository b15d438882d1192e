// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	nethttp "net/http"
	"strings"
	"testing"
)

// smuggling is what must not be understood in two ways: what comes after the
// request's head and body, if there is one, is the start of a second request
// for somebody.
var smuggling = []struct {
	text string
	want *fault
}{
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", errLengths},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", errLengths},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", errLength},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", errLength},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", errLength},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", errLength},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", errLength},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", errLength},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", errLength},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", errLengthCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", errLengthCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", errCodings},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", errCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", errCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", errCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", errCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n", errValue},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", errCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\x00: chunked\r\n\r\n", errName},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", errName},
	{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", errName},
	{"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n", errFolded},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", errCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\n\tX: y\r\n\r\n", errFolded},
	{"POST / HTTP/1.1\r\n Host: a\r\n\r\n", errFolded},
	{"POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n", errLineEnd},
	{"POST / HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n", errValue},
	{"POST / HTTP/1.1\nHost: a\r\n\r\n", errLineEnd},
	{"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n", errValue},
	{"POST / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", errValue},
	{"POST / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", errName},
	{"POST / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", errName},
	{"POST / HTTP/1.1\r\nHost: a\r\nX(: y\r\n\r\n", errName},
	{"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", errOldCoding},
	{"POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: 5\r\n\r\n", errConnection},
	{"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-role\r\nX-Role: admin\r\n\r\n", errConnection},
	{"GET / HTTP/1.1\r\n\r\n", errHosts},
	{"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", errHosts},
	{"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", errHosts},
	{"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", errHost},
	{"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", errHost},
	{"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", errHost},
	{"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", errHostMismatch},
	{"GET http://a@b/ HTTP/1.1\r\nHost: b\r\n\r\n", errTarget},
	{"GET http:///a HTTP/1.1\r\nHost: b\r\n\r\n", errTarget},
	{"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET a HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET * HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", errPath},
	{"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", errPath},
	{"GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n", errPath},
	{"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", errPath},
	{"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", errPath},
	{"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", errRequestLine},
	{"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", errRequestLine},
	{"GET /\r\n\r\n", errRequestLine},
	{"GET / HTTP/1.1x\r\nHost: a\r\n\r\n", errRequestLine},
	{"GET / http/1.1\r\nHost: a\r\n\r\n", errRequestLine},
	{"GET / HTTP/1.2\r\nHost: a\r\n\r\n", errVersion},
	{"GET / HTTP/2.0\r\nHost: a\r\n\r\n", errVersion},
	{"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", errMethod},
	{" GET / HTTP/1.1\r\nHost: a\r\n\r\n", errRequestLine},
	{"\r\n\r\n", errRequestLine},
	{"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", errRequestLine},
	{"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", errMethod},
	{"GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", errExpect},
	{"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", errTarget},
	{"CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", errHostMismatch},
	{"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 4\r\n\r\n", errConnectBody},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", errChunk},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n", errTrailer},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHOST: b\r\n\r\n", errTrailer},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n", errTrailer},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n X: y\r\n\r\n", errTrailer},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n\r\n", errTrailer},
	{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\rX", errTrailer},
}

// judgeText reads a text as the proxy does: the head, and the body as far as it goes.
func judgeText(h *head, text []byte) (end int, b body, err error) {
	if end = headEnd(text, 0); end == 0 {
		return 0, b, partial(text, 0)
	}
	if err := h.parseRequest(text[:end], nil); err != nil {
		return 0, b, err
	}
	b = requestBody(h)
	n, _, err := b.next(text[end:])
	return end + n, b, err
}

func TestWhatCanBeUnderstoodInTwoWaysIsRefused(t *testing.T) {
	var h head
	for _, x := range smuggling {
		if _, _, err := judgeText(&h, []byte(x.text)); err != x.want {
			t.Errorf("%q: %v, expected %v", x.text, err, x.want)
		}
	}
}

func TestSmuggledRequestsReachNoServer(t *testing.T) {
	p := through(t, serverOf(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		body, err := io.ReadAll(r.Body)
		if r.URL.Path == "/admin" || err == nil && len(body) == 0 {
			t.Errorf("the server got %s %s %q", r.Method, r.RequestURI, body)
		}
	}), rule(`{"path":"/"}`))
	for i, x := range smuggling {
		c := p.dial(t)
		c.send(x.text + "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")
		if code, _ := c.answer("GET"); code != x.want.code {
			t.Errorf("%q: %d, expected %d", x.text, code, x.want.code)
		}
		if list := p.records.await(t, i+1); list[i].Reason != x.want.reason {
			t.Errorf("%q: recorded as %q", x.text, list[i].Reason)
		}
	}
}

func TestPathsAreBroughtIntoOneForm(t *testing.T) {
	for in, want := range map[string]string{
		"/":                 "/",
		"/a/b.c":            "/a/b.c",
		"/a/.b":             "/a/.b",
		"/a/..b/...":        "/a/..b/...",
		"//a///b":           "//a///b",
		"/a/./b":            "/a/b",
		"/a/.":              "/a/",
		"/a/..":             "/",
		"/a/b/../c":         "/a/c",
		"/../../a":          "/a",
		"/a/../../b":        "/b",
		"/..":               "/",
		"/%2e%2E/a":         "/a",
		"/a/%2e/b":          "/a/b",
		"/%41%7e%2D":        "/A~-",
		"/a%2fb%2Fc":        "/a%2Fb%2Fc",
		"/a%2f..%2fb":       "/a%2F..%2Fb",
		"/%25%32%65":        "/%252e",
		"/%c3%a9/é":         "/%C3%A9/é",
		"/a;b=c/d":          "/a;b=c/d",
		"/a%5cb":            "/a%5Cb",
		"/public/..;/x":     "/public/..;/x",
		"/a//../b":          "/a/b",
		"/a/b/../../../c/.": "/c/",
	} {
		got, ok := normalPath(nil, []byte(in))
		if !ok || string(got) != want {
			t.Errorf("%s: %q %v, expected %q", in, got, ok, want)
		}
		again, ok := normalPath(nil, got)
		if !ok || !bytes.Equal(got, again) {
			t.Errorf("%s: %q, and then %q", in, got, again)
		}
	}
}

func TestTheServerGetsThePathThatWasJudged(t *testing.T) {
	p := through(t, serverOf(t, func(w nethttp.ResponseWriter, r *nethttp.Request) { io.WriteString(w, r.RequestURI) }), rule(`{"path":"/public/.*"}`))
	c := p.dial(t)
	for target, want := range map[string]string{
		"/public/a":                               "/public/a",
		"/public/%61/./b?q=/../%zz":               "/public/a/b?q=/../%zz",
		"/x/../public/c":                          "/public/c",
		"/public/../admin":                        "",
		"/public/%2e%2e/admin":                    "",
		"/public/.%2E/admin?x=/public/":           "",
		"/PUBLIC/a":                               "",
		"http://a/public/d":                       "http://a/public/d",
		"http://a/public/./e?f":                   "http://a/public/e?f",
		"http://a/public/../admin":                "",
		"/public/a%2f..%2f..%2fadmin":             "/public/a%2F..%2F..%2Fadmin",
		"/public/" + strings.Repeat("a/../", 500): "/public/",
	} {
		c.send("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")
		code, body := c.answer("GET")
		if want == "" && code != 403 || want != "" && (code != 200 || body != want) {
			t.Errorf("%.50s: %d %.80q", target, code, body)
		}
	}
}

// FuzzRequestHead: what we take for a request, net/http takes for the same.
func FuzzRequestHead(f *testing.F) {
	for _, x := range smuggling {
		f.Add([]byte(x.text))
	}
	f.Add([]byte("GET /a%2e/../b?c HTTP/1.1\r\nHost: a:80\r\nX: y\r\nConnection: close\r\n\r\n"))
	f.Add([]byte("POST http://a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := sameAsNetHTTP(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func sameAsNetHTTP(text []byte) error {
	var h head
	end, b, err := judgeText(&h, text)
	if err != nil || end == 0 || string(h.method) == "CONNECT" {
		return nil
	}
	// What is stricter or looser there by intent: targets that are no URL for
	// net/http, which a server may still understand.
	if bytes.ContainsAny(h.target, "%[]:") || bytes.ContainsAny(h.host, "%[]:") {
		return nil
	}
	whole := bufio.NewReader(bytes.NewReader(text[:end]))
	req, err := nethttp.ReadRequest(whole)
	if err != nil {
		return fmt.Errorf("net/http refuses: %w", err)
	}
	length := h.length
	if h.chunked {
		length = -1
	} else if length == noLength {
		length = 0
	}
	if req.Method != string(h.method) || req.RequestURI != string(h.target) || !strings.EqualFold(req.Host, string(h.host)) || req.ContentLength != length {
		return fmt.Errorf("net/http sees %s %s host %q length %d, we %s %s %q %d", req.Method, req.RequestURI, req.Host, req.ContentLength, h.method, h.target, h.host, length)
	}
	body, err := io.ReadAll(req.Body)
	if n, done, _ := b.next(nil); n != 0 || !done && !h.chunked || h.chunked && b.chunks.state != chunkDone {
		return nil // not whole
	}
	if err != nil {
		return fmt.Errorf("net/http refuses the body: %w", err)
	}
	if rest, _ := io.ReadAll(whole); len(rest) > 0 {
		return fmt.Errorf("net/http ends the body %q before %q", body, rest)
	}
	return nil
}

// FuzzChunks: however a body is cut, it ends at the same byte.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n"), 3)
	f.Add([]byte("0\r\n\r\nGET"), 1)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		cut = max(1, cut)
		var whole, pieces chunks
		n, done, err := whole.next(text)
		m := 0
		for m < len(text) {
			k, ended, bad := pieces.next(text[m:min(len(text), m+cut)])
			if m += k; ended || bad != nil {
				if ended != done || (bad != nil) != (err != nil) {
					t.Fatalf("%q by %d: %v %v, whole %v %v", text, cut, ended, bad, done, err)
				}
				break
			}
		}
		if m != n {
			t.Fatalf("%q by %d: %d bytes, whole %d", text, cut, m, n)
		}
	})
}

// FuzzPath: the one form is one form, and has no way up.
func FuzzPath(f *testing.F) {
	f.Add([]byte("/a/%2e%2e/b/./..%2fc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 || in[0] != '/' || bytes.IndexByte(in, '?') >= 0 {
			return
		}
		got, ok := normalPath(nil, in)
		if !ok {
			return
		}
		if again, ok := normalPath(nil, got); !ok || !bytes.Equal(again, got) || got[0] != '/' {
			t.Errorf("%q: %q, then %q %v", in, got, again, ok)
		}
		for _, segment := range bytes.Split(got, []byte("/")) {
			if s := string(segment); s == "." || s == ".." {
				t.Errorf("%q: %q", in, got)
			}
		}
	})
}
