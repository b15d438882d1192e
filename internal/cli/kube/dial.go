// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// Command is what connects the streams of an exec with the agent's socket.
var Command = []string{"stentor", "dial"}

// Dial connects to the socket of the agent in the pod; args are flags of Command.
func (c *Cluster) Dial(ctx context.Context, a Agent, args ...string) (net.Conn, error) {
	return c.Exec(ctx, c.namespace, a.Pod, slices.Concat(Command, args), "the agent of node "+a.Node)
}

// Exec runs a command in the first container of a pod. The connection is its
// standard input and output; where names the other end in errors.
func (c *Cluster) Exec(ctx context.Context, namespace, pod string, command []string, where string) (net.Conn, error) {
	query := url.Values{"command": command, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}}
	u, err := c.url("/api/v1/namespaces/" + namespace + "/pods/" + pod + "/exec?" + query.Encode())
	if err != nil {
		return nil, err
	}
	ws, err := remotecommand.NewWebSocketExecutor(c.config, "GET", u.String())
	if err != nil {
		return nil, fmt.Errorf("prepare the exec: %w", err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(c.config, "POST", u)
	if err != nil {
		return nil, fmt.Errorf("prepare the exec: %w", err)
	}
	exec, err := remotecommand.NewFallbackExecutor(ws, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the exec: %w", err)
	}
	return stream(context.WithoutCancel(ctx), exec, where), nil
}

// stream runs the exec and returns its streams as a connection.
func stream(ctx context.Context, exec remotecommand.Executor, where string) net.Conn {
	ctx, cancel := context.WithCancel(ctx)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	conn := &execConn{in: inW, out: outR, cancel: cancel}
	var stderr limited
	go func() {
		err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: inR, Stdout: outW, Stderr: &stderr})
		if text := stderr.String(); err != nil && text != "" {
			err = errors.New(text)
		}
		if err == nil {
			err = io.EOF
		} else {
			err = fmt.Errorf("reach %s: %w", where, err)
		}
		outW.CloseWithError(err)
		inR.CloseWithError(err)
	}()
	return conn
}

// execConn is a connection over the streams of an exec. It has no deadlines.
type execConn struct {
	in     *io.PipeWriter
	out    *io.PipeReader
	cancel context.CancelFunc
}

func (c *execConn) Read(b []byte) (int, error)  { return c.out.Read(b) }
func (c *execConn) Write(b []byte) (int, error) { return c.in.Write(b) }

// Close ends the exec.
func (c *execConn) Close() error {
	c.in.Close()
	c.out.Close()
	c.cancel()
	return nil
}

func (c *execConn) LocalAddr() net.Addr              { return addr{} }
func (c *execConn) RemoteAddr() net.Addr             { return addr{} }
func (c *execConn) SetDeadline(time.Time) error      { return nil }
func (c *execConn) SetReadDeadline(time.Time) error  { return nil }
func (c *execConn) SetWriteDeadline(time.Time) error { return nil }

type addr struct{}

func (addr) Network() string { return "exec" }
func (addr) String() string  { return "exec" }

// limited keeps the first words of a stream. The exec writes it from a goroutine of its own.
type limited struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if room := 4096 - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(l.b.String())
}
