// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/api/rest"
)

// Report is what `status` knows: of one node, or of a cluster.
type Report struct {
	OK         bool        `json:"ok"`
	Components []Component `json:"components,omitempty"` // from outside only
	Pods       rest.Pods   `json:"pods"`
	Nodes      []Node      `json:"nodes"`
	Problems   []Problem   `json:"problems,omitempty"` // what is missing
	Warnings   []Problem   `json:"warnings,omitempty"`
}

// Component is a workload of Stentor itself.
type Component struct {
	Name    string `json:"name"` // agent, operator
	Kind    string `json:"kind"` // DaemonSet, Deployment
	Object  string `json:"object"`
	Desired int    `json:"desired"`
	Ready   int    `json:"ready"`
}

// Node is one agent's state.
type Node struct {
	Name   string               `json:"name"`
	Pod    string               `json:"pod,omitempty"` // of the agent
	Ready  bool                 `json:"ready"`
	Error  string               `json:"error,omitempty"` // why the agent could not be asked
	Status *rest.StatusResponse `json:"status,omitempty"`
}

// Problem is one thing that is not as it should be.
type Problem struct {
	Where   string `json:"where"`
	Missing string `json:"missing"`
	Why     string `json:"why,omitempty"`
}

func (p Problem) String() string {
	return strings.TrimSuffix(p.Where+": "+p.Missing+": "+p.Why, ": ")
}

func (r *Report) problem(where, missing, why string) {
	r.Problems = append(r.Problems, Problem{Where: where, Missing: missing, Why: why})
}

// own is the part of an agent's answer that this project added; empty if absent.
func (n Node) own() rest.StentorStatus {
	if n.Status == nil || n.Status.Stentor == nil {
		return rest.StentorStatus{}
	}
	return *n.Status.Stentor
}

// reach counts the other nodes that a probe reaches, of those that it tried.
func (n Node) reach(probe func(rest.NodeHealth) rest.Probe) (reached, tried int) {
	for _, other := range n.own().Nodes {
		if p := probe(other); !other.Local && p.IP != "" {
			tried++
			if p.OK {
				reached++
			}
		}
	}
	return reached, tried
}

func nodeProbe(h rest.NodeHealth) rest.Probe     { return h.Node }
func endpointProbe(h rest.NodeHealth) rest.Probe { return h.Endpoint }

// judge derives problems from what the nodes said, and whether all is well.
func (r *Report) judge() {
	for _, n := range r.Nodes {
		where := "node " + n.Name
		if n.Name == "" {
			where = "agent"
		}
		if n.Error != "" {
			r.problem(where, "an agent that answers", n.Error)
			continue
		}
		r.judgeChecks(where, n)
		for _, other := range n.own().Nodes {
			if other.Local {
				continue
			}
			direct, endpoint := other.Probes()
			r.judgeWays(where, "node "+other.Name, direct)
			r.judgeWays(where, "endpoint "+other.Name, endpoint)
		}
	}
	if missing := r.Pods.Total - r.Pods.Managed; missing > 0 {
		r.problem("pods", fmt.Sprintf("%d of %d pods have no network of ours", missing, r.Pods.Total), few(r.Pods.Unmanaged, 5))
	}
	r.OK = len(r.Problems) == 0
}

func (r *Report) judgeWays(where, to string, ways []rest.Probe) {
	for _, p := range ways {
		if p.IP != "" && !p.OK {
			r.problem(where, fmt.Sprintf("%s (%s) is not reached", to, p.IP), p.Error)
		}
	}
}

func (r *Report) judgeChecks(where string, n Node) {
	failed := false
	for _, c := range n.own().Checks {
		missing := c.Missing
		if missing == "" {
			missing = c.Msg
		}
		p := Problem{Where: where + " " + c.Name, Missing: missing, Why: c.Why}
		switch c.State {
		case rest.StateFailure:
			failed = true
			r.Problems = append(r.Problems, p)
		case rest.StateWarning:
			r.Warnings = append(r.Warnings, p)
		}
	}
	state, text := rest.StateOk, ""
	if n.Status != nil && n.Status.Cilium != nil {
		state, text = n.Status.Cilium.State, n.Status.Cilium.Msg
	}
	if !failed && (!n.Ready || state == rest.StateFailure) {
		r.problem(where, "the agent is not ready", text)
	}
}

// few names the first of a list.
func few(names []string, n int) string {
	names = slices.Sorted(slices.Values(names))
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
