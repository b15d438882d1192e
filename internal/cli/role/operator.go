// SPDX-License-Identifier: Apache-2.0

// Package role runs the programs of a cluster: the agent of a node, the operator.
package role

import (
	"context"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/agent"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/operator"
)

// sharedKeys are those of the agent that the operator reads, too.
var sharedKeys = []string{"debug", "k8s-api-server", "k8s-kubeconfig-path", "enable-ipv4", "enable-ipv6", "ipam", "enable-k8s-cluster-network-policy"}

// operatorKeys are the operator's keys of the one schema, with their help.
func operatorKeys() map[string]string {
	keys := map[string]string{}
	for _, k := range agent.Schema() {
		if k.For != "operator" && !slices.Contains(sharedKeys, k.Name) {
			continue
		}
		keys[k.Name] = k.Help
		if k.Default != "" {
			keys[k.Name] += " Default " + k.Default + "."
		}
	}
	return keys
}

// NewCmdOperator makes `operator`.
func NewCmdOperator(f *command.Factory, runF func(context.Context, operator.Options) error) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "operator", Args: command.NoArgs,
		Short: "Run the operator: what is done once per cluster",
		Long: `Run the operator: what is done once per cluster. One replica works, elected by a
Lease; the cluster forwards and enforces without any.

Options come from a directory with one file for each key, as a mounted ConfigMap
has them, from variables such as STENTOR_IPAM, and from flags; the last wins.`,
		Example: "  stentor operator --config-dir /etc/stentor/config",
	}
	cmd.Flags().StringVar(&dir, "config-dir", "", "directory with one file for each key")
	given := keyFlags(cmd, operatorKeys())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := operatorOptions(f, dir, given())
		if err != nil {
			return err
		}
		if runF != nil {
			return runF(cmd.Context(), o)
		}
		return operator.Run(cmd.Context(), o)
	}
	return cmd
}

func operatorOptions(f *command.Factory, dir string, flags map[string]string) (operator.Options, error) {
	s, err := read(slices.Collect(maps.Keys(operatorKeys())), dir, os.Getenv, flags)
	if err != nil {
		return operator.Options{}, err
	}
	o := operator.Options{
		Kubernetes: k8s.Options{
			APIServer: s.text("k8s-api-server"), Kubeconfig: s.text("k8s-kubeconfig-path"), UserAgent: "stentor-operator/" + f.Version,
		},
		Namespace:          s.text("k8s-namespace"),
		Identity:           os.Getenv("K8S_POD_NAME"),
		IPAM:               s.text("ipam"),
		SkipDefinitions:    s.flag("skip-crd-creation", false),
		IdentityGCInterval: s.duration("identity-gc-interval"),
		IdentityTimeout:    s.duration("identity-heartbeat-timeout"),
		EndpointGCInterval: s.duration("cilium-endpoint-gc-interval"),
		ClusterPolicies:    s.flag("enable-k8s-cluster-network-policy", false),
		LoadBalancers:      s.flag("enable-lb-ipam", true),
		RemoveTaint:        s.flag("remove-cilium-node-taints", false),
		HealthAddress:      s.text("operator-api-serve-addr"),
		MetricsAddress:     s.text("operator-prometheus-serve-addr"),
		Version:            f.Version,
		Log:                logger(f.Streams, s.flag("debug", false)),
	}
	switch v := s.text("default-lb-service-ipam"); v {
	case "", "lbipam":
		o.LoadBalancerDefault = true
	case "none":
	default:
		s.fail("default-lb-service-ipam", "not one of lbipam, none")
	}
	if s.flag("enable-ipv4", true) {
		o.PodRanges.IPv4 = s.prefixes("cluster-pool-ipv4-cidr", "10.0.0.0/8")
		o.PodRanges.IPv4Mask = s.number("cluster-pool-ipv4-mask-size")
	}
	if s.flag("enable-ipv6", false) {
		o.PodRanges.IPv6 = s.prefixes("cluster-pool-ipv6-cidr", "fd00::/104")
		o.PodRanges.IPv6Mask = s.number("cluster-pool-ipv6-mask-size")
	}
	if o.Namespace == "" {
		o.Namespace = os.Getenv("K8S_NAMESPACE")
	}
	if o.Identity == "" {
		if o.Identity, err = os.Hostname(); err != nil {
			return o, err
		}
	}
	return o, s.err
}
