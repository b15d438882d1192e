// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// onlyDNS lets pods of a group, in every namespace, ask the cluster's DNS and
// nothing else.
const onlyDNS = `---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: only-dns}
spec:
  description: Default deny and allow egress to kube-dns.
  endpointSelector: {matchLabels: {group: my-app}}
  egress:
  - toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system, k8s-app: kube-dns}}]
    toPorts: [{ports: [{port: "53"}]}]
`

// clusterPolicy: a clusterwide policy admits the pods behind a service, though
// clients know the service's address only.
func (s *setup) clusterPolicy() {
	s.needsAgent()
	ns := s.namespace("grouped")
	s.apply(pod(ns, "member", "node1", "group: my-app") + pod(ns, "member2", "node2", "group: my-app") + pod(ns, "other", "node2") + service(ns, "other"))
	pods := s.running(ns, "member", "member2", "other")
	s.apply(onlyDNS)
	s.t.Cleanup(func() {
		if os.Getenv(keepEnv) == "" {
			return
		}
		if err := s.kube.Delete(context.Background(), onlyDNS); err != nil {
			s.t.Error(err)
		}
	})
	for _, m := range []from{from(ns + "/member"), from(ns + "/member2")} {
		for _, ip := range append(pods["other"], s.vips(ns, "other")...) {
			s.eventually(m, 5*time.Second, probe.Timeout, web(ip))
		}
		// The name is found, then the way is closed: a timeout, and no missing name.
		s.all(m, probe.Timeout, []target{{"a service by its name", "http://other." + ns + ".svc.cluster.local/", ""}})
		_, name, _ := strings.Cut(string(m), "/")
		out, errs, err := s.kube.Exec(context.Background(), ns, name, "stentor-app", "dns", "other."+ns+".svc.cluster.local")
		if err != nil || out == "" {
			s.t.Errorf("%s asks the cluster's DNS: %q, %v: %s", m, out, err, errs)
		}
		out, _, err = s.kube.Exec(context.Background(), ns, name, "stentor-app", "dns", "-tcp", "other."+ns+".svc.cluster.local")
		if err != nil || out == "" {
			s.t.Errorf("%s asks the cluster's DNS over TCP: %q, %v", m, out, err)
		}
		for _, ip := range s.vips("kube-system", "kube-dns") {
			s.all(m, probe.Timeout, []target{{"another port of the DNS service", "tcp://" + netip.AddrPortFrom(ip, 9153).String(), ""}})
		}
		// Who may not send may still be asked.
		for _, ip := range pods[name] {
			s.all(from(ns+"/other"), probe.OK, []target{{"a member", web(ip), ""}})
		}
	}
}
