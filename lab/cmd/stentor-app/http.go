// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const explosion = `Panic: deathstar exploded

goroutine 1 [running]:
main.exhaustPort(0x2, 0x1, 0x1)
	/deathstar/thermal.go:1977 +0x42
main.main()
	/deathstar/main.go:4 +0x1138
`

// runHTTP serves until ctx ends.
func runHTTP(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("http", flag.ContinueOnError)
	var addrs []string
	fs.Func("listen", "address to listen on (repeatable, default :80)", func(s string) error { addrs = append(addrs, s); return nil })
	name := fs.String("name", "", "name to answer with (default: the host's)")
	quiet := fs.Bool("quiet", false, "do not log requests")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if len(addrs) == 0 {
		addrs = []string{":80"}
	}
	if *name == "" {
		*name, _ = os.Hostname()
	}
	h := logged(newMux(*name), *quiet)
	var g errgroup.Group
	for _, a := range addrs {
		l, err := listen(ctx, a)
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		// Requests under way are answered, as a server in a cluster should.
		g.Go(func() error {
			<-ctx.Done()
			limit, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			if srv.Shutdown(limit) != nil {
				srv.Close()
			}
			return nil
		})
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

func logged(h http.Handler, quiet bool) http.Handler {
	if quiet {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s %s %s from %s\n", time.Now().UTC().Format("15:04:05.000"), r.Method, r.URL.Path, r.RemoteAddr)
		h.ServeHTTP(w, r)
	})
}

func newMux(name string) *http.ServeMux {
	mux := http.NewServeMux()
	text := func(pattern string, f func(r *http.Request) string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Served-By", name)
			fmt.Fprint(w, f(r))
		})
	}
	text("GET /{$}", func(r *http.Request) string {
		b, _ := json.Marshal(map[string]string{
			"name": name, "remote": r.RemoteAddr, "local": localAddr(r), "host": r.Host,
		})
		return string(b) + "\n"
	})
	text("GET /ip", func(r *http.Request) string { host, _, _ := net.SplitHostPort(r.RemoteAddr); return host + "\n" })
	text("GET /hostname", func(*http.Request) string { return name + "\n" })
	text("GET /healthz", func(*http.Request) string { return "ok\n" })
	text("/headers", func(r *http.Request) string { b, _ := json.MarshalIndent(r.Header, "", "  "); return string(b) + "\n" })
	text("GET /v1/{$}", func(*http.Request) string {
		return `{"name": "Death Star", "endpoints": ["GET /v1/", "POST /v1/request-landing", "PUT /v1/exhaust-port"]}` + "\n"
	})
	text("POST /v1/request-landing", func(*http.Request) string { return "Ship landed\n" })
	mux.HandleFunc("PUT /v1/exhaust-port", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, explosion)
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 599 {
			http.Error(w, "want /status/200 to /status/599", http.StatusBadRequest)
			return
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, "%d %s\n", code, http.StatusText(code))
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "want /bytes/N", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.CopyN(w, repeat('s'), n)
	})
	mux.HandleFunc("GET /delay/{ms}", func(w http.ResponseWriter, r *http.Request) {
		ms, err := strconv.Atoi(r.PathValue("ms"))
		if err != nil || ms < 0 {
			http.Error(w, "want /delay/MILLISECONDS", http.StatusBadRequest)
			return
		}
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
			io.WriteString(w, "done\n")
		case <-r.Context().Done():
		}
	})
	return mux
}

func localAddr(r *http.Request) string {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return a.String()
	}
	return ""
}

type repeat byte

func (b repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// Exit codes of get, as curl has them.
const (
	exitResolve = 6
	exitConnect = 7
	exitStatus  = 22
	exitTimeout = 28
)

func runGet(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("get", flag.ContinueOnError)
	method := fs.String("X", "", "method (default GET, or POST with -d)")
	data := fs.String("d", "", "body")
	timeout := fs.Duration("timeout", 5*time.Second, "for the whole exchange")
	fail := fs.Bool("f", false, "exit with 22 at status 400 and above")
	show := fs.Bool("i", false, "print the status and the headers too")
	headers := http.Header{}
	fs.Func("H", `header "Name: value" (repeatable)`, func(s string) error {
		k, v, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("want Name: value")
		}
		headers.Add(k, strings.TrimSpace(v))
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if fs.NArg() != 1 {
		return exitCode{2, errors.New("want one URL")}
	}
	if *method == "" {
		*method = http.MethodGet
		if *data != "" {
			*method = http.MethodPost
		}
	}
	url := fs.Arg(0)
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, *method, url, strings.NewReader(*data))
	if err != nil {
		return exitCode{2, err}
	}
	req.Header = headers
	if h := headers.Get("Host"); h != "" {
		req.Host = h
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	resp, err := (&http.Client{Transport: &http.Transport{DialContext: d.DialContext}}).Do(req)
	if err != nil {
		return exitCode{netCode(err), err}
	}
	defer resp.Body.Close()
	if *show {
		fmt.Printf("%s %s\n", resp.Proto, resp.Status)
		resp.Header.Write(os.Stdout)
		fmt.Println()
	}
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return exitCode{netCode(err), err}
	}
	if *fail && resp.StatusCode >= 400 {
		return exitCode{exitStatus, errors.New(resp.Status)}
	}
	return nil
}

func netCode(err error) int {
	var dns *net.DNSError
	var ne net.Error
	switch {
	case errors.As(err, &dns):
		return exitResolve
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return exitTimeout
	}
	return exitConnect
}
