// SPDX-License-Identifier: Apache-2.0

// Package endpoint holds the commands about the pods of a node.
package endpoint

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// NewCmd makes `endpoint`.
func NewCmd(f *command.Factory) *cobra.Command {
	return command.Group(&cobra.Command{
		Use: "endpoint", Aliases: []string{"endpoints", "ep"},
		Short: "Show the pods that a node carries, and their options",
	}, NewCmdList(f, nil), NewCmdGet(f, nil), NewCmdConfig(f, nil))
}

// View is an endpoint with its parts at hand; none of the pointers is nil.
type View struct {
	rest.Endpoint `json:",inline"`

	Node string `json:"node,omitempty"`
}

func status(e rest.Endpoint) rest.EndpointStatus {
	if e.Status == nil {
		return rest.EndpointStatus{}
	}
	return *e.Status
}

func (v View) pod() string {
	ids := status(v.Endpoint).ExternalIdentifiers
	switch {
	case ids == nil:
		return ""
	case ids.PodName != "":
		return ids.PodName
	case ids.K8sPodName != "":
		return ids.K8sNamespace + "/" + ids.K8sPodName
	}
	return ""
}

func (v View) container() string {
	if ids := status(v.Endpoint).ExternalIdentifiers; ids != nil {
		return ids.ContainerID
	}
	return ""
}

func (v View) identity() string {
	if id := status(v.Endpoint).Identity; id != nil {
		return strconv.FormatInt(id.ID, 10)
	}
	return ""
}

func (v View) labels() []string {
	if id := status(v.Endpoint).Identity; id != nil {
		return id.Labels
	}
	return nil
}

func (v View) networking() rest.EndpointNetworking {
	if n := status(v.Endpoint).Networking; n != nil {
		return *n
	}
	return rest.EndpointNetworking{}
}

func (v View) addresses(family int) string {
	var out []string
	for _, a := range v.networking().Addressing {
		ip := a.IPv4
		if family == 6 {
			ip = a.IPv6
		}
		if ip != "" {
			out = append(out, ip)
		}
	}
	return strings.Join(out, ",")
}

func (v View) policy() rest.EndpointPolicy {
	if p := status(v.Endpoint).Policy; p != nil && p.Realized != nil {
		return *p.Realized
	}
	return rest.EndpointPolicy{}
}

// enforcement of one direction, rest.PolicyEnabledIngress or Egress.
func (v View) enforcement(direction string) string {
	switch v.policy().PolicyEnabled {
	case "":
		return ""
	case direction, rest.PolicyEnabledBoth:
		return "enforced"
	}
	return "open"
}
