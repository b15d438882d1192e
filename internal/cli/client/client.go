// SPDX-License-Identifier: Apache-2.0

// Package client asks an agent over a connection that somebody else makes.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// Client asks one agent. Calls may run at the same time.
type Client struct {
	http *http.Client
	node string
}

// Dial makes a connection to an agent.
type Dial func(context.Context) (net.Conn, error)

// New makes a client. Node names the agent's node where it is known.
func New(node string, dial Dial) *Client {
	return &Client{node: node, http: &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
	}}}
}

// Socket makes connections to a unix socket.
func Socket(path string) Dial {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // without the path again
		}
		if err != nil {
			return nil, &AwayError{Where: path, Err: err}
		}
		return conn, nil
	}
}

// AwayError says that no agent listens.
type AwayError struct {
	Where string
	Err   error
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("no agent answers at %s: %v", e.Where, e.Err)
}
func (e *AwayError) Unwrap() error { return e.Err }

// StatusError is an answer with a status of 400 or more.
type StatusError struct {
	Method, Path string
	Code         int
	Text         string // the agent's words
}

func (e *StatusError) Error() string {
	if e.Text != "" {
		return e.Text
	}
	return fmt.Sprintf("%s %s: %d %s", e.Method, e.Path, e.Code, http.StatusText(e.Code))
}

// NotFound tells that the agent does not have what was asked for.
func NotFound(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

// Node is the name of the agent's node, "" if unknown.
func (c *Client) Node() string { return c.node }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks for path and decodes the answer into out.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, out)
}

// Patch sends in to path.
func (c *Client) Patch(ctx context.Context, path string, in any) error {
	return c.call(ctx, http.MethodPatch, path, nil, in, nil)
}

// Post sends in to path and decodes the answer into out.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, http.MethodPost, path, nil, in, out)
}

// Stream asks for path and returns the body while it grows. The end of ctx ends it.
func (c *Client) Stream(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Do sends one request. An answer with a status of 400 or more is a *StatusError.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body []byte) (*http.Response, error) {
	u := "http://agent" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var uerr *url.Error
		if errors.As(err, &uerr) {
			err = uerr.Err // without the URL, whose host says nothing
		}
		return nil, err
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return nil, &StatusError{Method: method, Path: path, Code: resp.StatusCode, Text: words(text)}
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
	}
	resp, err := c.Do(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("decode the answer of %s %s: %w", method, path, err)
	}
	return nil
}

// words of an error's body: a JSON string, an object with msg, or text.
func words(body []byte) string {
	var text string
	if json.Unmarshal(body, &text) == nil {
		return text
	}
	var object struct{ Msg, Details string }
	if json.Unmarshal(body, &object) == nil && object.Msg != "" {
		return strings.TrimSuffix(object.Msg+": "+object.Details, ": ")
	}
	return strings.TrimSpace(string(body))
}
