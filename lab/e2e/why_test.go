// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// ruled is what stories read of a trace.
type ruled struct {
	Verdict string
	Ingress *struct {
		Verdict, Judged   string
		Deciding, Default []struct{ Kind, Namespace, Name, Path string }
		Nearest           []struct {
			Name    string
			Missing []string
		}
	}
}

// why: a real drop names its policy and what was missing, by the event and by
// the pair; a change of policy does not change what an earlier drop is told.
func (s *setup) why() {
	s.needsAgent()
	ns := s.namespace("why")
	s.apply(pod(ns, "guarded", "node2") + pod(ns, "stranger", "node1") + onlyFriends(ns, "guarded"))
	pods := s.running(ns, "guarded", "stranger")
	at := from(ns + "/stranger")
	for _, ip := range pods["guarded"] {
		s.eventually(at, 5*time.Second, probe.Timeout, web(ip))
		event := s.drop(at, ip)
		s.namesFriends("event about "+ip.String(), s.whyOf(event))
	}
	var traced ruled
	s.asked(&traced, "", "policy", "trace", "--src-pod", ns+"/stranger", "--dst-pod", ns+"/guarded", "--dport", "80", "-o", "json")
	s.namesFriends("trace", traced)
	if traced.Ingress.Judged != "node2" {
		s.t.Errorf("the policy of node2's pod was judged on %s", traced.Ingress.Judged)
	}
	event := s.drop(at, pods["guarded"][0])
	if err := s.kube.Delete(context.Background(), onlyFriends(ns, "guarded")); err != nil {
		s.t.Fatal(err)
	}
	s.eventually(at, 5*time.Second, probe.OK, web(pods["guarded"][0]))
	s.namesFriends("event from before the policy went", s.whyOf(event))
}

// drop makes a denied connection and returns its event.
func (s *setup) drop(at from, ip netip.Addr) []byte {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := s.cli(ctx, "monitor", "--type", "drop", "--to", ip.String(), "--count", "1", "-o", "json")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for { // the monitor may not listen yet
		if _, err := s.probe(ctx, at, 500*time.Millisecond, web(ip)); err != nil {
			s.t.Fatal(err)
		}
		select {
		case err := <-done:
			if err != nil || out.Len() == 0 {
				s.t.Fatalf("stentor monitor: %v: %s", err, errs.String())
			}
			return out.Bytes()
		default:
		}
	}
}

func (s *setup) whyOf(event []byte) ruled {
	s.t.Helper()
	var r ruled
	s.asked(&r, string(event), "policy", "why", "-o", "json")
	return r
}

// asked runs the command line and decodes what it prints.
func (s *setup) asked(into any, input string, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := s.cli(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("stentor %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		s.t.Fatalf("stentor %s: %v: %s", strings.Join(args, " "), err, out.String())
	}
}

// namesFriends fails the story unless the denial is the policy's, for the want of a label.
func (s *setup) namesFriends(what string, r ruled) {
	s.t.Helper()
	if r.Verdict != "denied" || r.Ingress == nil || len(r.Ingress.Default) != 1 || len(r.Ingress.Nearest) != 1 {
		s.t.Fatalf("%s: %+v", what, r)
	}
	d, near := r.Ingress.Default[0], r.Ingress.Nearest[0]
	if d.Kind != "NetworkPolicy" || d.Name != "friends-of-guarded" || d.Path != "spec.ingress[0]" || fmt.Sprint(near.Missing) != "[label role=friend is missing]" {
		s.t.Errorf("%s: by default of %+v, nearest %+v", what, d, near)
	}
}

// quarantine: a policy that agents do not understand is told on the object, in
// an Event, in the metrics and by the command line; its last good version and
// all others stay in force.
func (s *setup) quarantine() {
	s.needsAgent()
	ns := s.namespace("quarantine")
	s.apply(pod(ns, "guarded", "node2") + pod(ns, "other", "node2") + pod(ns, "stranger", "node1") + onlyFriends(ns, "other"))
	pods := s.running(ns, "guarded", "other", "stranger")
	at := from(ns + "/stranger")
	policy := func(key string) string {
		return fmt.Sprintf(`---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: %s, name: broken}
spec:
  endpointSelector: {matchLabels: {app: guarded}}
  ingress: [{fromEndpoints: [{matchLabels: {"%s": friend}}]}]
`, ns, key)
	}
	s.apply(policy("role"))
	s.eventually(at, 5*time.Second, probe.Timeout, web(pods["guarded"][0]))
	s.condition(ns, "broken", "Valid", "True", "")
	s.condition(ns, "broken", "Enforced", "True", "in force on 2 of 2 nodes")
	s.apply(policy("no such key"))
	s.condition(ns, "broken", "Valid", "False", `key "no such key" is not that of a label`)
	s.condition(ns, "broken", "Enforced", "False", "set aside on")
	s.wait(20*time.Second, "an Event about the broken policy", func(ctx context.Context) (bool, error) {
		list, err := s.kube.Set.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=broken,reason=PolicyQuarantined"})
		return err == nil && len(list.Items) > 0, err
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for args, want := range map[string]string{
		"policy get " + ns + "/broken":                                                                     "the last good version stays in force",
		"metrics list --node node2 stentor_policy_quarantined":                                             "1",
		"policy get " + ns + "/broken -o json --node node1":                                                `"valid": false`,
		"policy get " + ns + "/friends-of-other -o json":                                                   `"valid": true`,
		"policy trace --src-pod " + ns + "/stranger --dst-pod " + ns + "/guarded --dport 80 --expect deny": "DENIED",
	} {
		out, err := s.said(ctx, strings.Fields(args)...)
		if err != nil || !strings.Contains(out, want) {
			s.t.Errorf("stentor %s: %v, want %q:\n%s", args, err, want, out)
		}
	}
	// What was in force stays in force.
	s.all(at, probe.Timeout, append(podTargets("guarded by the last good version", "guarded", pods["guarded"]), podTargets("guarded by another policy", "other", pods["other"])...))
	s.apply(policy("app"))
	s.condition(ns, "broken", "Valid", "True", "")
	s.condition(ns, "broken", "Enforced", "True", "in force on 2 of 2 nodes")
}

// agentsAndStatus: the status tells on which nodes a policy is in force: an
// agent that hangs is named, one that is back is counted, and so is the
// operator's successor.
func (s *setup) agentsAndStatus() {
	s.needsAgent()
	ns := s.namespace("status")
	policy := func(generation int) string {
		return fmt.Sprintf(`---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: %s, name: counted}
spec:
  endpointSelector: {matchLabels: {app: none}}
  description: "%d"
  ingress: [{toPorts: [{ports: [{port: "%d"}]}]}]
`, ns, generation, 8000+generation)
	}
	s.apply(policy(1))
	s.condition(ns, "counted", "Enforced", "True", "in force on 2 of 2 nodes")
	pid, err := s.agentPid("node2")
	if err != nil {
		s.t.Fatal(err)
	}
	signal := func(name string) {
		if out, err := s.output("node2", "kill", "-"+name, strconv.Itoa(pid)); err != nil {
			s.t.Fatalf("kill -%s: %v: %s", name, err, out)
		}
	}
	signal("STOP")
	defer signal("CONT")
	s.apply(policy(2))
	s.condition(ns, "counted", "Enforced", "False", "in force on 1 of 2 nodes, not on node2")
	s.scaleOperator(0)
	s.apply(policy(3))
	s.scaleOperator(1)
	s.condition(ns, "counted", "Enforced", "False", "in force on 1 of 2 nodes, not on node2")
	signal("CONT")
	s.condition(ns, "counted", "Enforced", "True", "in force on 2 of 2 nodes")
	s.apply(policy(4))
	s.killAgent("node1")
	s.condition(ns, "counted", "Enforced", "True", "in force on 2 of 2 nodes")
}

// condition waits until the status of a CiliumNetworkPolicy says so about its
// present version.
func (s *setup) condition(ns, name, kind, status, message string) {
	s.t.Helper()
	start := time.Now()
	if s.wait(40*time.Second, fmt.Sprintf("condition %s=%s of %s/%s", kind, status, ns, name), func(ctx context.Context) (bool, error) {
		o, err := s.kube.Get(ctx, "cilium.io/v2", "CiliumNetworkPolicy", ns, name)
		if err != nil {
			return false, err
		}
		text, err := json.Marshal(o.Object["status"])
		if err != nil {
			return false, err
		}
		var st struct {
			Conditions []struct{ Type, Status, Message string }
		}
		if err := json.Unmarshal(text, &st); err != nil {
			return false, err
		}
		for _, c := range st.Conditions {
			if c.Type == kind && c.Status == status && strings.Contains(c.Message, message) {
				return true, nil
			}
		}
		return false, fmt.Errorf("the status is %s", text)
	}) {
		s.t.Logf("%s=%s of %s after %.1f s", kind, status, name, time.Since(start).Seconds())
	}
}

// validation: `policy validate` accepts and refuses what the API server does.
func (s *setup) validation() {
	s.needsAgent()
	files, err := filepath.Glob("testdata/validate/*.yaml")
	if err != nil || len(files) < 20 {
		s.t.Fatalf("%d files, %v", len(files), err)
	}
	agree := map[bool]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		server := exec.Command("kubectl", "--kubeconfig", s.plan.Kubeconfig(), "create", "--dry-run=server", "--validate=strict", "-f", "-")
		server.Stdin = bytes.NewReader(text)
		said, refused := server.CombinedOutput()
		var list []struct{ Refused []string }
		cmd := s.cli(context.Background(), "policy", "validate", "-o", "json", file)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) || json.Unmarshal(out, &list) != nil || len(list) != 1 {
			s.t.Errorf("%s: %v: %s", file, err, out)
			continue
		}
		if ours := len(list[0].Refused) > 0; ours != (refused != nil) {
			s.t.Errorf("%s: refused by us %t (%v), by the API server %t (%s)", file, ours, list[0].Refused, refused != nil, said)
		}
		agree[refused != nil]++
	}
	if agree[true] == 0 || agree[false] == 0 {
		s.t.Errorf("accepted %d, refused %d: both must occur", agree[false], agree[true])
	}
	s.t.Logf("the API server accepts %d and refuses %d of %d files, and so do we", agree[false], agree[true], len(files))
}
