// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// streamCount is what one end saw of a stream, as the app reports it.
type streamCount struct {
	Received     int     `json:"received"`
	Lost         int     `json:"lost"`
	LongestGap   int     `json:"longestGap"`
	MaxSilenceMS float64 `json:"maxSilenceMs"`
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

// stream is a sender that runs in a pod.
type stream struct {
	s    *setup
	at   from
	cmd  []string
	done chan streamResult
}

type streamResult struct {
	out string
	err error
}

// stream starts a sender to port 9000 of a pod, for at most the duration.
func (s *setup) stream(at from, to netip.Addr, duration time.Duration, flags ...string) *stream {
	s.t.Helper()
	args := append([]string{"stentor-app", "stream-send", "-duration", duration.String()}, flags...)
	st := &stream{s: s, at: at, cmd: append(args, netip.AddrPortFrom(to, 9000).String()), done: make(chan streamResult, 1)}
	ns, name, _ := strings.Cut(string(at), "/")
	go func() {
		out, errs, err := s.kube.Exec(context.Background(), ns, name, st.cmd...)
		st.done <- streamResult{out + errs, err}
	}()
	s.wait(5*time.Second, "stream from "+string(at)+" to start", func(ctx context.Context) (bool, error) {
		out, _, err := s.kube.Exec(ctx, ns, name, "busybox", "pgrep", "-f", st.pattern())
		return err == nil && out != "", nil
	})
	return st
}

// pattern finds the sender among the pod's processes.
func (st *stream) pattern() string {
	return "stream-send.* " + regexp.QuoteMeta(st.cmd[len(st.cmd)-1]) + "$"
}

// end interrupts the sender, if it still runs, and returns its report.
func (st *stream) end() streamReport {
	st.s.t.Helper()
	ns, name, _ := strings.Cut(string(st.at), "/")
	var r streamReport
	// It may have ended by itself.
	_, _, _ = st.s.kube.Exec(context.Background(), ns, name, "busybox", "pkill", "-INT", "-f", st.pattern())
	select {
	case res := <-st.done:
		if err := json.Unmarshal([]byte(res.out), &r); err != nil {
			st.s.t.Errorf("%s: %v: %s", strings.Join(st.cmd, " "), res.err, res.out)
			r.Error = "no report"
		}
	case <-time.After(10 * time.Second):
		st.s.t.Errorf("%s does not end", strings.Join(st.cmd, " "))
		r.Error = "no report"
	}
	return r
}

// output runs a command on a machine of the lab.
func (s *setup) output(machine string, command ...string) (string, error) {
	var out bytes.Buffer
	cmd := s.on(machine, command...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}
