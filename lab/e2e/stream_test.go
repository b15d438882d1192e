// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// job is a command that runs in a pod until it is interrupted.
type job struct {
	s       *setup
	ns, pod string
	pidfile string
	command []string
	done    chan string
}

var jobs atomic.Int64

// start runs a command in a pod, and returns when it runs.
func (s *setup) start(at from, command ...string) *job {
	s.t.Helper()
	j := &job{s: s, command: command, pidfile: fmt.Sprintf("/tmp/job%d", jobs.Add(1)), done: make(chan string, 1)}
	j.ns, j.pod, _ = strings.Cut(string(at), "/")
	go func() {
		// Its exit code is that of an interrupted command: what counts is what it says.
		out, errs, _ := s.kube.Exec(context.Background(), j.ns, j.pod,
			append([]string{"bash", "-c", `echo $$ >"$0"; exec "$@"`, j.pidfile}, command...)...)
		j.done <- strings.TrimSpace(out + errs)
	}()
	s.wait(10*time.Second, strings.Join(command, " ")+" to start", func(ctx context.Context) (bool, error) {
		out, errs, err := s.kube.Exec(ctx, j.ns, j.pod, "cat", j.pidfile)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, errs)
		}
		return strings.TrimSpace(out) != "", err
	})
	return j
}

// end interrupts the command and returns what it printed.
func (j *job) end() string { return j.endAfter(10 * time.Second) }

// endAfter does so with a command that may take its time.
func (j *job) endAfter(limit time.Duration) string {
	j.s.t.Helper()
	// It may have ended by itself.
	_, _, _ = j.s.kube.Exec(context.Background(), j.ns, j.pod, "bash", "-c", `kill -INT $(cat "$0"); rm "$0"`, j.pidfile)
	select {
	case out := <-j.done:
		return out
	case <-time.After(limit):
		j.s.t.Errorf("%s does not end", strings.Join(j.command, " "))
		return ""
	}
}

// streamCount is what one end saw of a stream, as the app reports it.
type streamCount struct {
	Received     int     `json:"received"`
	Lost         int     `json:"lost"`
	Overflow     int     `json:"overflow"` // of the lost ones: came, and were not read in time
	LongestGap   int     `json:"longestGap"`
	MaxSilenceMS float64 `json:"maxSilenceMs"`
	MaxDelayMS   float64 `json:"maxDelayMs"` // UDP: from sending to the receiver's socket
}

// lostOnTheWay leaves out what reached a receiver that a busy machine kept from reading.
func (c streamCount) lostOnTheWay() int { return max(0, c.Lost-c.Overflow) }

// held is the longest time in milliseconds that the network may have kept a
// packet. The kernel measures it for UDP; for TCP it is the time without any.
func (r streamReport) held() float64 {
	if r.Network == "tcp" {
		return r.Back.MaxSilenceMS
	}
	return max(r.Forth.MaxDelayMS, r.Back.MaxDelayMS)
}

// streamReport is what the app says of a stream at its end.
type streamReport struct {
	Network    string      `json:"network"`
	Sent       int         `json:"sent"`
	Seconds    float64     `json:"seconds"`
	Forth      streamCount `json:"forth"` // UDP: what the receiver got
	Back       streamCount `json:"back"`  // what came back to the sender
	SendErrors int         `json:"sendErrors"`
	Error      string      `json:"error"`
}

// stream starts a sender to port 9000 of a pod, for at most two minutes. The
// returned function ends it and gives its report.
func (s *setup) stream(at from, to netip.Addr, flags ...string) func() streamReport {
	s.t.Helper()
	command := append([]string{"stentor-app", "stream-send", "-duration", "2m"}, flags...)
	j := s.start(at, append(command, netip.AddrPortFrom(to, 9000).String())...)
	return func() (r streamReport) {
		s.t.Helper()
		out := j.end()
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			s.t.Errorf("%s: no report: %v: %s", strings.Join(j.command, " "), err, out)
			r.Error = "no report"
		}
		return r
	}
}

// pings starts one for each address. The returned function ends them and gives
// their summaries.
func (s *setup) pings(at from, to ...netip.Addr) func() map[netip.Addr]string {
	s.t.Helper()
	running := map[netip.Addr]*job{}
	for _, ip := range to {
		running[ip] = s.start(at, "ping", "-i", "0.05", "-q", ip.String())
	}
	return func() map[netip.Addr]string {
		out := map[netip.Addr]string{}
		for ip, j := range running {
			text := j.end()
			out[ip] = text
			for line := range strings.Lines(text) {
				if strings.Contains(line, "packets transmitted") {
					out[ip] = strings.TrimSpace(line)
				}
			}
		}
		return out
	}
}

// output runs a command on a machine of the lab.
func (s *setup) output(machine string, command ...string) (string, error) {
	var out bytes.Buffer
	cmd := s.on(machine, command...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}
