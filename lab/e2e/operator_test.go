// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// withoutOperator: a cluster without it goes on forwarding and enforcing, also
// for pods and policies that come meanwhile; the next one changes no pod range.
func (s *setup) withoutOperator() {
	s.needsAgent()
	before := s.podRanges()
	s.scaleOperator(0)
	ns := s.namespace("alone")
	s.apply(pod(ns, "server", "node2") + pod(ns, "friend", "node1", "role: friend") + pod(ns, "foe", "node1"))
	pods := s.running(ns, "server", "friend", "foe")
	for _, ip := range pods["server"] {
		s.eventually(from(ns+"/foe"), 5*time.Second, probe.OK, web(ip))
	}
	s.apply(onlyFriends(ns, "server"))
	for _, ip := range pods["server"] {
		s.eventually(from(ns+"/foe"), 5*time.Second, probe.Timeout, web(ip))
		s.eventually(from(ns+"/friend"), 5*time.Second, probe.OK, web(ip))
	}
	s.scaleOperator(1)
	if after := s.podRanges(); after != before {
		s.t.Errorf("pod ranges changed from %s to %s", before, after)
	}
}

// scaleOperator changes the number of its replicas and waits until it is so.
func (s *setup) scaleOperator(replicas int32) {
	s.t.Helper()
	const namespace, name = "kube-system", "stentor-operator"
	if err := s.kube.Merge(context.Background(), "apps/v1", "Deployment", namespace, name, fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)); err != nil {
		s.t.Fatal(err)
	}
	done := s.wait(40*time.Second, fmt.Sprintf("%d operators", replicas), func(ctx context.Context) (bool, error) {
		d, err := s.kube.Set.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		seen := d.Status.ObservedGeneration >= d.Generation
		return seen && d.Status.Replicas == replicas && d.Status.ReadyReplicas == replicas, nil
	})
	if !done {
		s.t.FailNow()
	}
}

// podRanges are those of all nodes, as text.
func (s *setup) podRanges() string {
	s.t.Helper()
	nodes, err := s.kube.List(context.Background(), "cilium.io/v2", "CiliumNode", "")
	if err != nil || len(nodes) == 0 {
		s.t.Fatalf("%d CiliumNodes: %v", len(nodes), err)
	}
	var out []string
	for _, n := range nodes {
		spec, _ := n.Object["spec"].(map[string]any)
		ipam, _ := spec["ipam"].(map[string]any)
		out = append(out, fmt.Sprint(n.GetName(), ipam["podCIDRs"]))
	}
	return strings.Join(out, " ")
}
