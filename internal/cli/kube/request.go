// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"k8s.io/client-go/rest"
)

// Error is an API server's refusal.
type Error struct {
	Code    int
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	if e.Message != "" {
		return e.Message
	}
	return fmt.Sprintf("the API server answers %d %s", e.Code, http.StatusText(e.Code))
}

// NotFound tells that the API server has no such object or kind.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == http.StatusNotFound
}

func (c *Cluster) url(path string) (*url.URL, error) {
	base, _, err := rest.DefaultServerUrlFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	u, err := url.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("path %s: %w", path, err)
	}
	full := base.JoinPath(u.Path)
	full.RawQuery = u.RawQuery
	return full, nil
}

// Create makes an object from its JSON; path is that of its list.
func (c *Cluster) Create(ctx context.Context, path string, object []byte) error {
	_, err := c.raw(ctx, http.MethodPost, path, object)
	return err
}

// Delete removes an object. One that is not there is no error.
func (c *Cluster) Delete(ctx context.Context, path string) error {
	if _, err := c.raw(ctx, http.MethodDelete, path, nil); err != nil && !NotFound(err) {
		return err
	}
	return nil
}

func (c *Cluster) raw(ctx context.Context, method, path string, content []byte) ([]byte, error) {
	u, err := c.url(path)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var uerr *url.Error
		if errors.As(err, &uerr) {
			err = uerr.Err
		}
		return nil, fmt.Errorf("ask the API server %s: %w", c.config.Host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read from the API server: %w", err)
	}
	if resp.StatusCode >= 400 {
		e := &Error{}
		_ = json.Unmarshal(body, e) // what is no Status object has no message
		e.Code = resp.StatusCode
		return nil, e
	}
	return body, nil
}
