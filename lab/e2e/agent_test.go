// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stentor-net/stentor/lab/internal/demo"
	"github.com/stentor-net/stentor/lab/internal/probe"
)

// agentPid finds the agent among the processes of a node, as the node numbers
// them.
func (s *setup) agentPid(node string) (int, error) {
	out, err := s.output(node, "sh", "-c",
		`for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^stentor agent ' && echo ${p#/proc/}; done; true`)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	pids := strings.Fields(out)
	if len(pids) != 1 {
		return 0, fmt.Errorf("%d agent processes on %s: %v", len(pids), node, pids)
	}
	return strconv.Atoi(pids[0])
}

// endpoint is what stories read of `stentor endpoint list -o json`.
type endpoint struct {
	ID     int64
	Status struct {
		State               string
		ExternalIdentifiers struct {
			PodName string `json:"pod-name"`
		} `json:"external-identifiers"`
		Identity struct{ ID int64 }
	}
}

// endpoints lists those of a node, by pod, from the agent's own socket.
func (s *setup) endpoints(ctx context.Context, node string) (map[string]endpoint, error) {
	for _, a := range s.agents(ctx) {
		if a.Spec.NodeName != node {
			continue
		}
		out, errs, err := s.kube.Exec(ctx, a.Namespace, a.Name, "stentor", "endpoint", "list", "-o", "json")
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, errs)
		}
		var list []endpoint
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return nil, err
		}
		byPod := map[string]endpoint{}
		for _, e := range list {
			byPod[e.Status.ExternalIdentifiers.PodName] = e
		}
		return byPod, nil
	}
	return nil, fmt.Errorf("no agent on %s", node)
}

// agentKilled: an agent that dies takes nothing with it, and its successor
// adopts what is there.
func (s *setup) agentKilled() {
	s.needsAgent()
	ns := s.namespace("alive")
	s.apply(pod(ns, "a", "node1", "role: friend") + pod(ns, "b", "node1") + pod(ns, "c", "node2") +
		onlyFriends(ns, "b") + onlyFriends(ns, "c"))
	pods := s.running(ns, "a", "b", "c")
	at := from(ns + "/a")
	for _, n := range []string{"b", "c"} {
		for _, ip := range pods[n] {
			s.eventually(at, 5*time.Second, probe.OK, web(ip))
		}
	}
	before, err := s.endpoints(context.Background(), "node1")
	if err != nil {
		s.t.Fatal(err)
	}
	// Nothing may be lost, ever. A silence can also come from a busy machine that
	// lets senders and receivers wait: one that comes from the network comes again.
	for try := 1; ; try++ {
		longest := s.killUnderLoad(at, pods)
		s.adopted("node1", before)
		if longest <= maxSilenceMS {
			break
		}
		if s.t.Logf("try %d: a silence of %.0f ms", try, longest); try == 3 {
			s.t.Errorf("a silence of more than %d ms each time that agents were killed", maxSilenceMS)
			break
		}
	}
	s.newPodsWork(ns, pods)
}

const maxSilenceMS = 200

// killUnderLoad kills the agents of both nodes while streams and pings run, and
// fails the story for everything that is lost. It returns the longest silence,
// in milliseconds.
func (s *setup) killUnderLoad(at from, pods map[string][]netip.Addr) (longest float64) {
	s.t.Helper()
	streams := map[string]func() streamReport{}
	for what, ip := range map[string]netip.Addr{"same node": pods["b"][0], "other node": pods["c"][0], "other node, IPv6": pods["c"][1]} {
		streams["UDP, "+what] = s.stream(at, ip, "-rate", "1000")
	}
	streams["TCP, same node"] = s.stream(at, pods["b"][1], "-rate", "200", "-tcp")
	streams["TCP, other node"] = s.stream(at, pods["c"][0], "-rate", "200", "-tcp")
	pings := s.pings(at, pods["b"][0], pods["c"][0], pods["c"][1])
	s.killAgent("node1")
	s.killAgent("node2")
	for what, end := range streams {
		r := end()
		s.t.Logf("%s: %d sent, forth %+v, back %+v", what, r.Sent, r.Forth, r.Back)
		longest = max(longest, r.held())
		if r.Error != "" || r.SendErrors > 0 || r.Back.lostOnTheWay() > 0 || r.Forth.lostOnTheWay() > 0 {
			s.t.Errorf("%s while agents were killed: %+v, want nothing lost and no error", what, r)
		}
	}
	for target, r := range pings() {
		s.t.Logf("ping %s: %s", target, r)
		if !strings.Contains(r, " 0% packet loss") {
			s.t.Errorf("ping %s while agents were killed: %s", target, r)
		}
	}
	return longest
}

// killAgent ends the agent of a node without a word, and waits for the next one.
func (s *setup) killAgent(node string) {
	s.t.Helper()
	old, err := s.agentPid(node)
	if err != nil {
		s.t.Fatal(err)
	}
	if out, err := s.output(node, "kill", "-9", strconv.Itoa(old)); err != nil {
		s.t.Fatalf("kill the agent: %v: %s", err, out)
	}
	start := time.Now()
	s.wait(40*time.Second, "a new agent on "+node, func(ctx context.Context) (bool, error) {
		pid, err := s.agentPid(node)
		if err != nil || pid == old {
			return false, err
		}
		_, err = s.endpoints(ctx, node)
		return err == nil, err
	})
	s.t.Logf("the next agent on %s serves after %.1f s", node, time.Since(start).Seconds())
}

// adopted fails the story if the new agent does not have the old one's
// endpoints, with their numbers, all ready.
func (s *setup) adopted(node string, before map[string]endpoint) {
	s.t.Helper()
	s.wait(20*time.Second, "all endpoints of "+node+" to be adopted", func(ctx context.Context) (bool, error) {
		now, err := s.endpoints(ctx, node)
		if err != nil {
			return false, err
		}
		for pod, e := range before {
			n, ok := now[pod]
			if !ok || n.ID != e.ID || n.Status.State != "ready" || n.Status.Identity.ID != e.Status.Identity.ID {
				return false, fmt.Errorf("endpoint of %s is %+v, was %+v", pod, n, e)
			}
		}
		return true, nil
	})
}

// agentAway: pods come and go on a node whose agent is away, and nothing of them
// is left or missing afterwards.
func (s *setup) agentAway() {
	s.needsAgent()
	ns := s.namespace("away")
	s.apply(pod(ns, "stays", "node2") + pod(ns, "goes", "node1"))
	pods := s.running(ns, "stays", "goes")
	pid, err := s.agentPid("node1")
	if err != nil {
		s.t.Fatal(err)
	}
	if out, err := s.output("node1", "kill", "-9", strconv.Itoa(pid)); err != nil {
		s.t.Fatalf("kill the agent: %v: %s", err, out)
	}
	start := time.Now()
	s.apply(pod(ns, "comes", "node1"))
	s.remove(ns, "goes")
	comes := s.running(ns, "comes")["comes"]
	s.t.Logf("a pod is made after %.1f s", time.Since(start).Seconds())
	for i, ip := range comes {
		s.eventually(from(ns+"/stays"), 5*time.Second, probe.OK, web(ip))
		s.eventually(from(ns+"/comes"), 5*time.Second, probe.OK, web(pods["stays"][i]))
	}
	s.wait(20*time.Second, "the pod that went to be forgotten", func(ctx context.Context) (bool, error) {
		eps, err := s.endpoints(ctx, "node1")
		if err != nil {
			return false, err
		}
		if e, ok := eps[ns+"/goes"]; ok {
			return false, fmt.Errorf("endpoint %+v", e)
		}
		_, err = s.kube.Get(ctx, "cilium.io/v2", "CiliumEndpoint", ns, "goes")
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	out, err := s.output("node1", "ip", "-o", "link")
	if err != nil {
		s.t.Fatal(err)
	}
	eps, err := s.endpoints(context.Background(), "node1")
	if err != nil {
		s.t.Fatal(err)
	}
	if n := strings.Count(out, ": stp"); n != len(eps) {
		s.t.Errorf("node1 has %d interfaces of pods and %d endpoints:\n%s", n, len(eps), out)
	}
}

// newPodsWork: a pod made after the restart has its network and its policy.
func (s *setup) newPodsWork(ns string, pods map[string][]netip.Addr) {
	s.t.Helper()
	s.apply(pod(ns, "late-friend", "node1", "role: friend") + pod(ns, "late-foe", "node2"))
	s.running(ns, "late-friend", "late-foe")
	for _, n := range []string{"b", "c"} {
		for _, ip := range pods[n] {
			s.eventually(from(ns+"/late-friend"), 5*time.Second, probe.OK, web(ip))
			s.eventually(from(ns+"/late-foe"), 5*time.Second, probe.Timeout, web(ip))
		}
	}
}

// size: binaries and the agent stay small.
func (s *setup) size() {
	const mib = 1 << 20
	for name, limit := range map[string]int64{"stentor": 55e6, "stentor-cni": 4e6} {
		info, err := os.Stat(filepath.Join(s.bin, name))
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Logf("%s has %.1f MB", name, float64(info.Size())/1e6)
		if info.Size() > limit {
			s.t.Errorf("%s has %d bytes, want at most %d", name, info.Size(), limit)
		}
	}
	s.needsAgent()
	ns := s.namespace("crowd")
	s.apply(fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: %s, name: crowd}
spec:
  replicas: 30
  selector: {matchLabels: {app: crowd}}
  template:
    metadata: {labels: {app: crowd}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "pause:dev", imagePullPolicy: Never}]
`, ns))
	start := time.Now()
	s.wait(90*time.Second, "30 pods", func(ctx context.Context) (bool, error) { return s.kube.DeploymentAvailable(ctx, ns, "crowd") })
	s.t.Logf("30 more pods run after %.1f s", time.Since(start).Seconds())
	for _, node := range []string{"node1", "node2"} {
		pid, err := s.agentPid(node)
		if err != nil {
			s.t.Error(err)
			continue
		}
		status, err := s.output(node, "cat", fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			s.t.Errorf("%v: %s", err, status)
			continue
		}
		rss := field(status, "VmRSS:")
		eps, err := s.endpoints(context.Background(), node)
		if err != nil {
			s.t.Error(err)
		}
		s.t.Logf("agent on %s: RSS %.1f MiB with %d endpoints (%d KiB anonymous)", node, float64(rss)/1024, len(eps), field(status, "RssAnon:"))
		if rss*1024 > 60*mib || rss == 0 {
			s.t.Errorf("agent on %s: RSS %d KiB, want at most 60 MiB", node, rss)
		}
	}
}

// field is a number of /proc/PID/status.
func field(status, name string) int64 {
	for line := range strings.Lines(status) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// commands: the command line shows the live cluster from outside.
func (s *setup) commands() {
	s.needsAgent()
	s.apply(demo.Rule1)
	s.wait(30*time.Second, "stentor status", func(ctx context.Context) (bool, error) {
		out, err := s.said(ctx, "status", "-o", "json")
		if err == nil && !json.Valid([]byte(out)) {
			err = fmt.Errorf("no JSON: %s", out)
		}
		return err == nil, err
	})
	for _, c := range []struct {
		args string
		want []string
	}{
		{"status", []string{"node1", "node2"}},
		{"endpoint list", []string{"IDENTITY", "kube-system/coredns", "node1", "node2", "ready"}},
		{"identity list", []string{"reserved:host", "reserved:world", "k8s:k8s-app=kube-dns"}},
		{"policy get", []string{"CiliumNetworkPolicy", "rule1"}},
		{"node list", []string{"node1", "172.30.0.12"}},
		{"ip list", []string{"10.244.", "fd00:10:244:"}},
		{"config get", []string{"enable-ipv4"}},
		{"map list --node node1", []string{"ipcache", "policy"}},
		{"metrics list --node node1", []string{"endpoint"}},
		{"bpf endpoint list --node node1", []string{"10.244.", "fd00:10:244:", "true"}},
		{"bpf ipcache list --node node1", []string{"10.244.0.", "10.244.1."}},
		{"bpf policy list --node node1", nil},
		{"bpf ct list --node node1", []string{"10.244."}},
		{"bpf nat list --node node1", nil},
		{"bpf metrics list --node node1", []string{"Forwarded"}},
		{"db list --node node1", []string{"endpoints"}},
		{"version", []string{"stentor"}},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		out, err := s.said(ctx, strings.Fields(c.args)...)
		cancel()
		if err != nil {
			s.t.Errorf("stentor %s: %v", c.args, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				s.t.Errorf("stentor %s does not show %q:\n%s", c.args, w, out)
			}
		}
		s.t.Logf("stentor %s: %d lines", c.args, strings.Count(out, "\n"))
	}
	s.oneEndpoint()
}

// oneEndpoint: the node shows an endpoint as its object's status does.
func (s *setup) oneEndpoint() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	eps, err := s.endpoints(ctx, "node1")
	if err != nil {
		s.t.Fatal(err)
	}
	for pod, e := range eps {
		ns, name, ok := strings.Cut(pod, "/")
		if !ok {
			continue
		}
		out, err := s.said(ctx, "endpoint", "get", pod, "-o", "json")
		if err != nil {
			s.t.Errorf("stentor endpoint get %s: %v", pod, err)
			return
		}
		object, err := s.kube.Get(ctx, "cilium.io/v2", "CiliumEndpoint", ns, name)
		if err != nil {
			s.t.Error(err)
			return
		}
		status, _ := object.Object["status"].(map[string]any)
		identity, _ := status["identity"].(map[string]any)
		if fmt.Sprint(status["id"]) != fmt.Sprint(e.ID) || fmt.Sprint(identity["id"]) != fmt.Sprint(e.Status.Identity.ID) || status["state"] != e.Status.State {
			s.t.Errorf("endpoint of %s: the agent says %+v, its object %v", pod, e, status)
		}
		if !strings.Contains(out, fmt.Sprint(e.Status.Identity.ID)) {
			s.t.Errorf("stentor endpoint get %s does not show identity %d:\n%s", pod, e.Status.Identity.ID, out)
		}
		return
	}
	s.t.Error("no endpoint of a pod on node1")
}

// said is what the command line prints.
func (s *setup) said(ctx context.Context, args ...string) (string, error) {
	cmd := s.cli(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
