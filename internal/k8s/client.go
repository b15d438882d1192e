// SPDX-License-Identifier: Apache-2.0

// Package k8s is the edge to the Kubernetes API: it reflects objects into raw
// tables, and writes the objects that Stentor owns.
//
// See README.md of this folder.
package k8s

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// Client talks to the API server. It may be shared by goroutines; mu guards
// the clients per group, which are made when first used.
type Client struct {
	config *rest.Config
	http   *http.Client
	scheme *runtime.Scheme
	codecs serializer.CodecFactory
	params runtime.ParameterCodec

	onObject func(kind, action string) // optional

	mu     sync.Mutex
	groups map[schema.GroupVersion]rest.Interface
}

// NewClient reads credentials; it does not talk to the API server yet.
func NewClient(o Options) (*Client, error) {
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	if o.OnCall != nil {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counted{next, o.OnCall} })
	}
	c, err := NewClientForConfig(config)
	if err != nil {
		return nil, err
	}
	c.onObject = o.OnObject
	return c, nil
}

// counted tells of every request.
type counted struct {
	next http.RoundTripper
	tell func(host, method string, status int)
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	c.tell(r.URL.Host, r.Method, status)
	return resp, err
}

// NewClientForConfig makes a client from a ready configuration. One that names
// a content type is taken at its word for every kind.
func NewClientForConfig(config *rest.Config) (*Client, error) {
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", config.Host, err)
	}
	scheme := newScheme()
	return &Client{
		config: config,
		http:   httpClient,
		scheme: scheme,
		codecs: serializer.NewCodecFactory(scheme),
		params: runtime.NewParameterCodec(scheme),
		groups: map[schema.GroupVersion]rest.Interface{},
	}, nil
}

// Host is the address of the API server.
func (c *Client) Host() string { return c.config.Host }

// Config returns a copy of the configuration, for what needs a connection of
// its own such as port forwarding.
func (c *Client) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Version returns the version of the API server, such as v1.36.3. It is the
// cheapest way to see whether the server answers.
func (c *Client) Version(ctx context.Context) (string, error) {
	group, err := c.group(schema.GroupVersion{Version: "v1"})
	if err != nil {
		return "", err
	}
	raw, err := group.Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", c.config.Host, err)
	}
	return gitVersion(raw)
}

// group returns the client of one API group version.
func (c *Client) group(gv schema.GroupVersion) (rest.Interface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if group, ok := c.groups[gv]; ok {
		return group, nil
	}
	config := rest.CopyConfig(c.config)
	config.GroupVersion = &gv
	config.APIPath = "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = c.codecs.WithoutConversion()
	custom := gv == ciliumGroup || gv == definitionGroup || gv == policyGroup // JSON only
	if !custom && config.ContentType == "" {
		config.ContentType = "application/vnd.kubernetes.protobuf"
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	}
	group, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", gv, err)
	}
	c.groups[gv] = group
	return group, nil
}
