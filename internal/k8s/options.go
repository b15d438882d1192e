// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"fmt"
	"net/url"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Options say how to reach the API server. The zero value is that of a pod:
// the environment gives the address, the service account the rights.
type Options struct {
	// APIServer is a URL that wins over every other source of the address.
	// Optional.
	APIServer string
	// Kubeconfig is the path of a kubeconfig file. Optional; empty is the
	// service account of the pod.
	Kubeconfig string
	// Context is the context of the kubeconfig file. Optional; empty is the
	// current one.
	Context string
	// UserAgent names the program to the API server. Optional.
	UserAgent string
	// QPS and Burst limit the requests; watches do not count. Optional: 50
	// per second, 100 at once.
	QPS   float32
	Burst int
	// OnCall is told of every request with the status of the answer, 0 without
	// one. Optional.
	OnCall func(host, method string, status int)
	// OnObject is told of every change of a watched object: create, update,
	// delete. Optional.
	OnObject func(kind, action string)
}

func (o Options) validate() error {
	if o.APIServer == "" {
		return nil
	}
	if u, err := url.Parse(o.APIServer); err != nil || u.Host == "" {
		return fmt.Errorf("k8s api server %q is not a URL", o.APIServer)
	}
	return nil
}

// ErrNotInCluster says that there is neither a kubeconfig file nor the
// environment of a pod.
var ErrNotInCluster = errors.New("not in a cluster: set k8s-kubeconfig-path or k8s-api-server")

// config merges the sources of Options.
func (o Options) config() (*rest.Config, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	config, err := o.source()
	if err != nil {
		return nil, err
	}
	config.UserAgent = o.UserAgent
	if config.UserAgent == "" {
		config.UserAgent = "stentor"
	}
	config.QPS, config.Burst = o.QPS, o.Burst
	if config.QPS == 0 {
		config.QPS, config.Burst = 50, 100
	}
	return config, nil
}

func (o Options) source() (*rest.Config, error) {
	if o.Kubeconfig != "" {
		overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
		overrides.ClusterInfo.Server = o.APIServer
		config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}, overrides).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", o.Kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	switch {
	case err == nil:
	case errors.Is(err, rest.ErrNotInCluster) && o.APIServer != "":
		return &rest.Config{Host: o.APIServer}, nil // without credentials
	case errors.Is(err, rest.ErrNotInCluster):
		return nil, ErrNotInCluster
	default:
		return nil, fmt.Errorf("read service account: %w", err)
	}
	if o.APIServer != "" {
		config.Host = o.APIServer
	}
	return config, nil
}
