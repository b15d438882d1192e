// SPDX-License-Identifier: Apache-2.0

package http

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
)

// The comparison with nginx needs its binary: STENTOR_NGINX=/usr/sbin/nginx.
// Proxy and server are processes of their own, so that only what a proxy uses counts.
const (
	nginxEnv = "STENTOR_NGINX"
	roleEnv  = "STENTOR_BENCH_ROLE"
)

// TestBenchRole is not a test: it is a process of the comparison.
func TestBenchRole(t *testing.T) {
	role, arg, _ := strings.Cut(os.Getenv(roleEnv), " ")
	switch role {
	case "server":
		size, _ := strconv.Atoi(arg)
		fmt.Println("at", answering(t, size))
	case "proxy":
		fmt.Println("at", benched(t, arg))
	default:
		t.Skip("no role")
	}
	io.Copy(io.Discard, os.Stdin) // until the comparison ends
}

// logger writes a line for each record, as an access log has it.
type logger struct {
	mu  sync.Mutex
	out *bufio.Writer
	b   []byte
}

func (l *logger) Record(r *l7.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := r.Connection.Client.AppendTo(l.b[:0])
	b = r.Time.UTC().AppendFormat(append(b, ' '), time.RFC3339Nano)
	b = append(append(append(append(append(b, ' '), r.HTTP.Method...), ' '), r.HTTP.Host...), r.HTTP.Path...)
	b = strconv.AppendInt(append(b, ' '), int64(r.HTTP.Code), 10)
	b = strconv.AppendInt(append(b, ' '), int64(r.Latency), 10)
	l.b = append(b, '\n')
	l.out.Write(l.b)
}

// role starts a process of the comparison and returns its pid and address.
func role(t *testing.T, text string) (pid int, addr string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchRole$")
	cmd.Env = append(os.Environ(), roleEnv+"="+text, "GOMAXPROCS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if addr, ok := strings.CutPrefix(lines.Text(), "at "); ok {
			return cmd.Process.Pid, addr
		}
	}
	t.Fatalf("%s says no address", text)
	return 0, ""
}

const nginxConfig = `daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error;
events { worker_connections 4096; }
http {
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  access_log %[1]s/access; keepalive_requests 100000000; tcp_nodelay on;
  upstream server { server %[2]s; keepalive 128; keepalive_requests 100000000; }
  server { listen %[3]s; location / { proxy_pass http://%[4]s; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; } }
}
`

// nginx starts one in front of the server; without keep it connects for each request.
func nginx(t *testing.T, server string, keep bool) (pid int, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	dir, upstream := t.TempDir(), server
	if keep {
		upstream = "server"
	}
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, server, addr, upstream), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Getenv(nginxEnv), "-c", config, "-p", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for start := time.Now(); time.Since(start) < 10*time.Second; {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return cmd.Process.Pid, addr
		}
	}
	t.Fatal("nginx does not listen")
	return 0, ""
}

// used is the processor time of a process's threads.
func used(t *testing.T, pid int) (sum time.Duration) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		n, _ := strconv.ParseInt(strings.Fields(string(text) + " 0")[0], 10, 64)
		sum += time.Duration(n)
	}
	return sum
}

// load sends requests over a few connections, or each over its own.
func load(t *testing.T, addr string, requests, size int, short bool) {
	const workers = 16
	head := []byte(benchHead)
	if short {
		head = []byte(strings.Replace(benchHead, "Accept: */*", "Connection: close", 1))
	}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			var c net.Conn
			r := bufio.NewReaderSize(nil, 32<<10)
			for range requests / workers {
				if c == nil {
					var err error
					if c, err = net.Dial("tcp", addr); err != nil {
						t.Error(err)
						return
					}
					r.Reset(c)
				}
				if err := once(c, r, head, size); err != nil {
					t.Error(err)
					return
				}
				if short {
					c.Close()
					c = nil
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
	all.Wait()
}

func once(c net.Conn, r *bufio.Reader, head []byte, size int) error {
	if _, err := c.Write(head); err != nil {
		return err
	}
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !strings.HasPrefix(string(line), "HTTP/1.1 200") {
			return fmt.Errorf("answer %q", line)
		}
		if len(line) == 2 {
			break
		}
	}
	_, err := r.Discard(size)
	return err
}

// TestProcessorTimeForARequestComparedWithNginx prints medians of interleaved rounds.
func TestProcessorTimeForARequestComparedWithNginx(t *testing.T) {
	if os.Getenv(nginxEnv) == "" {
		t.Skip(nginxEnv + " is not set")
	}
	for _, size := range []int{0, 1 << 10, 10 << 10} {
		_, server := role(t, "server "+strconv.Itoa(size))
		ours, at := role(t, "proxy "+server)
		theirs, nginxAt := nginx(t, server, true)
		plain, plainAt := nginx(t, server, false)
		for _, short := range []bool{false, true} {
			requests := 20000
			if short {
				requests = 4000
			}
			var costs [3][]time.Duration
			for range 7 {
				for i, p := range []struct {
					pid  int
					addr string
				}{{ours, at}, {theirs, nginxAt}, {plain, plainAt}} {
					before := used(t, p.pid)
					load(t, p.addr, requests, size, short)
					costs[i] = append(costs[i], (used(t, p.pid)-before)/time.Duration(requests))
				}
			}
			for i := range costs {
				slices.Sort(costs[i])
			}
			t.Logf("%5d bytes, short %5v: ours %v (%v to %v), nginx %v, nginx that connects each time %v: %.2f, %.2f", size, short,
				costs[0][3], costs[0][0], costs[0][6], costs[1][3], costs[2][3],
				float64(costs[0][3])/float64(costs[1][3]), float64(costs[0][3])/float64(costs[2][3]))
		}
	}
}
