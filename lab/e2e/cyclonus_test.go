// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// cyclonusCases are a sample of the cases that the policy engine's own tests
// go through as a whole: one or two of each feature, none with addresses.
var cyclonusCases = []int{
	1,   // namespaces and pods by expression, both directions
	6,   // subject by expression
	7,   // nothing may leave
	20,  // peers by labels of pod and namespace
	140, // named port, UDP
	144, // range of ports, egress
	149, // named port of the other protocol
	170, // range of ports, ingress
	195, // a policy changes
	197, // a namespace's labels change
	199, // a pod's labels change
	200, // one side allows, the other does not
}

// cyclonusCase is one of them, as far as it is needed here.
type cyclonusCase struct {
	Description string
	Steps       []struct {
		State struct {
			Namespaces map[string]map[string]string // labels
			Pods       []struct {
				Namespace, Name string
				Labels          map[string]string
			}
			Policies []map[string]any
		}
		Expected []struct {
			Protocol string
			Port     uint16
			Rows     []string // NAMESPACE/POD, of sources and of destinations
			Combined []string // a row for each source: '.' for allowed
		}
	}
}

// cyclonus: verdicts of known policies hold for real sockets.
func (s *setup) cyclonus() {
	cases := s.readCyclonus()
	pods := s.cyclonusPods()
	for i, k := range cases {
		s.story(s.t, fmt.Sprintf("case-%03d", cyclonusCases[i]), func(s *setup) { s.cyclonusCase(k, pods) })
	}
}

// readCyclonus finds the cases beside the project, in a folder above it.
func (s *setup) readCyclonus() []cyclonusCase {
	s.t.Helper()
	at, err := os.Getwd()
	if err != nil {
		s.t.Fatal(err)
	}
	dir := os.Getenv("STENTOR_POLICY_CORPUS")
	for ; dir == "" && at != "/"; at = filepath.Dir(at) {
		if c := filepath.Join(at, "shared/data/policy"); isDir(c) {
			dir = c
		}
	}
	if dir == "" {
		s.t.Skip("no verdict corpora: neither STENTOR_POLICY_CORPUS nor shared/data/policy beside the checkout")
	}
	var out []cyclonusCase
	for _, n := range cyclonusCases {
		raw, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("cyclonus/cases/%03d.json", n)))
		if err != nil {
			s.t.Fatal(err)
		}
		var k cyclonusCase
		if err := json.Unmarshal(raw, &k); err != nil {
			s.t.Fatalf("case %d: %v", n, err)
		}
		out = append(out, k)
	}
	return out
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

var cyclonusPorts = []uint16{80, 81}

// cyclonusPods starts pods a, b and c in the namespaces x, y and z, spread over
// both nodes, with echo servers of both protocols on both ports.
func (s *setup) cyclonusPods() map[string][]netip.Addr {
	s.t.Helper()
	var servers, ports []string
	for _, port := range cyclonusPorts {
		for _, proto := range []string{"tcp", "udp"} {
			servers = append(servers, fmt.Sprintf("stentor-app %s-echo -listen :%d", proto, port))
			ports = append(ports, fmt.Sprintf("{name: serve-%d-%s, containerPort: %[1]d, protocol: %[3]s}", port, proto, strings.ToUpper(proto)))
		}
	}
	manifests := ""
	for i, ns := range []string{"x", "y", "z"} {
		s.namespace(ns, `ns: "`+ns+`"`) // y is a truth to YAML
		for j, name := range []string{"a", "b", "c"} {
			manifests += fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {namespace: %q, name: %s, labels: {pod: %[2]s}}
spec:
  nodeName: node%d
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "stentor-app:dev", imagePullPolicy: Never, command: [bash, -c, "%s & wait"], ports: [%s]}
`, ns, name, 1+(i+j)%2, strings.Join(servers, " & "), strings.Join(ports, ", "))
		}
	}
	s.apply(manifests)
	out := map[string][]netip.Addr{}
	for _, ns := range []string{"x", "y", "z"} {
		for name, ips := range s.running(ns, "a", "b", "c") {
			out[ns+"/"+name] = ips
		}
	}
	return out
}

func (s *setup) cyclonusCase(k cyclonusCase, pods map[string][]netip.Addr) {
	s.t.Helper()
	start, tried, applied := time.Now(), 0, map[string]string{}
	for i, step := range k.Steps {
		for ns, labels := range step.State.Namespaces {
			if _, known := labels[corev1.LabelMetadataName]; !known && i == 0 {
				s.t.Fatalf("namespace %s does not start with its usual labels", ns)
			}
			s.relabel("Namespace", "", ns, labels)
		}
		for _, p := range step.State.Pods {
			s.relabel("Pod", p.Namespace, p.Name, p.Labels)
		}
		for _, p := range step.State.Policies {
			raw, err := json.Marshal(p)
			if err != nil {
				s.t.Fatal(err)
			}
			meta := p["metadata"].(map[string]any)
			applied[fmt.Sprint(meta["namespace"], "/", meta["name"])] = string(raw)
			s.apply(string(raw))
		}
		var verdicts []verdict
		for _, e := range step.Expected {
			if e.Protocol == "SCTP" {
				continue
			}
			verdicts = append(verdicts, cyclonusVerdicts(e.Rows, e.Combined, strings.ToLower(e.Protocol), e.Port, pods)...)
		}
		tried += len(verdicts)
		if !s.decide(fmt.Sprintf("%s, step %d", k.Description, i+1), verdicts) {
			break
		}
	}
	s.t.Logf("%s: %d verdicts in %.1f s", k.Description, tried, time.Since(start).Seconds())
	for _, p := range applied {
		if err := s.kube.Delete(context.Background(), p); err != nil {
			s.t.Fatal(err)
		}
	}
}

// cyclonusVerdicts leaves out what a pod may do with itself, which readers of
// the language see differently.
func cyclonusVerdicts(names, rows []string, scheme string, port uint16, pods map[string][]netip.Addr) (out []verdict) {
	for i, row := range rows {
		for j, mark := range row {
			if i == j {
				continue
			}
			want := probe.Timeout
			if mark == '.' {
				want = probe.OK
			}
			for _, ip := range pods[names[j]] {
				out = append(out, verdict{from(names[i]), way{scheme, port}.url(ip, 0), want})
			}
		}
	}
	return out
}

// relabel gives an object these labels and no others, but leaves the name of
// a namespace alone, which the API server puts back.
func (s *setup) relabel(kind, namespace, name string, labels map[string]string) {
	s.t.Helper()
	object, err := s.kube.Get(context.Background(), "v1", kind, namespace, name)
	if err != nil {
		s.t.Fatal(err)
	}
	change := map[string]any{}
	for k := range object.GetLabels() {
		if _, keep := labels[k]; !keep && k != corev1.LabelMetadataName {
			change[k] = nil
		}
	}
	for k, v := range labels {
		if object.GetLabels()[k] != v {
			change[k] = v
		}
	}
	if len(change) == 0 {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": change}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.kube.Merge(context.Background(), "v1", kind, namespace, name, string(patch)); err != nil {
		s.t.Fatal(err)
	}
}
