// SPDX-License-Identifier: Apache-2.0

// Package rpc calls the agent over its unix socket.
//
// It speaks just enough HTTP/1.1 for that (one request per connection, bodies
// with a length, in chunks or up to the end), because net/http alone would
// make the CNI plugin larger than it may be.
package rpc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// Error is an answer with a status of 400 or more.
type Error struct {
	Status int    // HTTP status
	Body   []byte // as the agent sent it
}

// Error gives the agent's words where there are any.
func (e *Error) Error() string {
	var text string
	if json.Unmarshal(e.Body, &text) == nil && text != "" {
		return text
	}
	if body := strings.TrimSpace(string(e.Body)); body != "" {
		return body
	}
	return "status " + strconv.Itoa(e.Status)
}

// ErrUnreachable wraps errors of the connection itself: no socket, nobody
// listening. The agent has not seen the request.
var ErrUnreachable = errors.New("agent not reachable")

// Client calls the agent that listens on Socket. It has no state; calls may run
// at the same time.
type Client struct {
	Socket string // path of the unix socket
}

// Call sends in as JSON (nothing if nil) and decodes the answer into out
// (dropped if nil). A status of 400 or more is an *Error.
func (c Client) Call(ctx context.Context, method, path string, in, out any) error {
	body, err := c.Stream(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, body)
		return err
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return fmt.Errorf("read answer of %s %s: %w", method, path, err)
	}
	return nil
}

// Stream is Call without decoding: it returns the body once the headers are
// in. The end of ctx closes the connection. The caller closes the body.
func (c Client) Stream(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	var payload []byte
	if in != nil {
		var err error
		if payload, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.Socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	body, err := roundTrip(conn, method, path, payload)
	if err != nil {
		stop()
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return &stream{Reader: body, conn: conn, stop: stop}, nil
}

type stream struct {
	io.Reader
	conn net.Conn
	stop func() bool
}

func (s *stream) Close() error {
	s.stop()
	return s.conn.Close()
}

func roundTrip(conn net.Conn, method, path string, payload []byte) (io.Reader, error) {
	head := method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	if payload != nil {
		head += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(payload)) + "\r\n"
	}
	if _, err := conn.Write(append([]byte(head+"\r\n"), payload...)); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	r := bufio.NewReader(conn)
	status, body, err := readHead(r)
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if status < 400 {
		return body, nil
	}
	text, err := io.ReadAll(io.LimitReader(body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return nil, &Error{Status: status, Body: text}
}

// readHead reads the status line and the headers, and returns the body's reader.
func readHead(r *bufio.Reader) (status int, body io.Reader, err error) {
	line, err := readLine(r)
	if err != nil {
		return 0, nil, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	if status, err = strconv.Atoi(code); err != nil || !strings.HasPrefix(version, "HTTP/1.") {
		return 0, nil, fmt.Errorf("not an HTTP answer: %.60q", line)
	}
	body = r
	for {
		line, err := readLine(r)
		if err != nil {
			return 0, nil, err
		}
		if line == "" {
			return status, body, nil
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "content-length":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, nil, fmt.Errorf("content length %q", value)
			}
			body = &lengthReader{r: r, n: n}
		case "transfer-encoding":
			body = &chunkReader{r: r}
		}
	}
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimRight(line, "\r\n"), err
}

// lengthReader reads exactly n bytes; an earlier end is an error.
type lengthReader struct {
	r *bufio.Reader
	n int64
}

func (l *lengthReader) Read(p []byte) (int, error) {
	if l.n == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > l.n {
		p = p[:l.n]
	}
	n, err := l.r.Read(p)
	l.n -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunkReader reads a body in chunks (RFC 9112, 7.1).
type chunkReader struct {
	r     *bufio.Reader
	left  int64 // of the current chunk
	begun bool
	err   error
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.err == nil && c.left == 0 {
		c.err = c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *chunkReader) next() error {
	if c.begun {
		if _, err := readLine(c.r); err != nil { // ends the chunk before
			return err
		}
	}
	c.begun = true
	line, err := readLine(c.r)
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(line, ";")
	if c.left, err = strconv.ParseInt(strings.TrimSpace(size), 16, 64); err != nil {
		return fmt.Errorf("chunk size %.20q", line)
	}
	if c.left == 0 {
		return io.EOF
	}
	return nil
}
