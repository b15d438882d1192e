// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func TestProbesTellHowTargetsAnswer(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /landing", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Ship landed") })
	mux.HandleFunc("/no", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	web := httptest.NewServer(mux)
	defer web.Close()
	silent := listen(t, func(net.Conn) {})
	echo := listen(t, func(c net.Conn) { io.Copy(c, c) })
	closed := listen(t, nil)
	ping := func(ip *net.IPAddr, size int, _ time.Duration) error {
		if ip.IP.IsLoopback() && size == 100 {
			return nil
		}
		return os.ErrDeadlineExceeded
	}
	rows := []struct{ target, outcome, body string }{
		{web.URL + "/landing#method=POST&family=4", OK, "Ship landed"},
		{web.URL + "/landing", Status, "Method Not Allowed"},
		{web.URL + "/no", Status, ""},
		{web.URL + "/echo#size=5000", OK, strings.Repeat("s", maxBody)},
		{web.URL + "/landing#family=6", Failed, ""},
		{"tcp://" + echo, OK, ""},
		{"tcp://" + echo + "#size=100000", OK, ""},
		{"tcp://" + silent, Timeout, ""},
		{"tcp://" + closed, Refused, ""},
		{"ping://127.0.0.1#size=100", OK, ""},
		{"ping://127.0.0.1", Timeout, ""},
		{"ftp://127.0.0.1", Failed, ""},
		{"tcp://" + echo + "#size=no", Failed, ""},
	}
	var targets []string
	for _, r := range rows {
		targets = append(targets, r.target)
	}
	for i, got := range Run(context.Background(), targets, 500*time.Millisecond, ping) {
		want := rows[i]
		if got.Outcome != want.outcome || got.Body != want.body {
			t.Errorf("%s: %+v, want outcome %q and body %q", want.target, got, want.outcome, want.body)
		}
	}
}

// listen serves on loopback; with no handler the port is closed again.
func listen(t *testing.T, handle func(net.Conn)) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if handle == nil {
		l.Close()
		return l.Addr().String()
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			go handle(c)
		}
	}()
	return l.Addr().String()
}
