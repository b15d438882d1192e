// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// runner is the manifest of a pod with one command and no server for probes.
func runner(ns, name, node, role, command string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {namespace: %s, name: %s, labels: {role: %s}}
spec: {nodeName: %s, terminationGracePeriodSeconds: 0, restartPolicy: Never, containers: [{name: c, image: "stentor-app:dev", imagePullPolicy: Never, args: [%s]}]}
`, ns, name, role, node, command)
}

// reusedSource: a pod that gets the address of one that was admitted is not
// admitted, from its first packet on.
func (s *setup) reusedSource() {
	ns := s.namespace("source")
	s.t.Cleanup(func() { s.clear(ns) })
	s.apply(pod(ns, "guarded", "node1") + onlyFriends(ns, "guarded"))
	guarded := s.running(ns, "guarded")["guarded"][0]
	send := fmt.Sprintf("stream-send, -duration, 60s, -rate, '500', %q", netip.AddrPortFrom(guarded, 9000))
	s.apply(runner(ns, "friend", "node2", "friend", send))
	addr := s.running(ns, "friend")["friend"][0]
	s.wait(10*time.Second, "the friend to be heard", func(ctx context.Context) (bool, error) {
		heard, err := s.heard(ctx, ns, "guarded", addr)
		return len(heard) == 1, err
	})
	s.remove(ns, "friend")
	foe := s.takeAddress(ns, addr, func(name string) string { return runner(ns, name, "node2", "foe", send) })
	s.t.Logf("%s has the friend's address %s", foe, addr)
	// Its first packets are long out when it has tried for a second.
	s.wait(20*time.Second, "the foe to send for a second", func(ctx context.Context) (bool, error) {
		p, err := s.kube.Set.CoreV1().Pods(ns).Get(ctx, foe, metav1.GetOptions{})
		if err != nil || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Running == nil {
			return false, err
		}
		return time.Since(p.Status.ContainerStatuses[0].State.Running.StartedAt.Time) > 2*time.Second, nil
	})
	heard, err := s.heard(context.Background(), ns, "guarded", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(heard) != 1 {
		s.t.Errorf("the guarded pod heard %d streams from %s, want that of the friend alone: %v", len(heard), addr, heard)
	}
}

// reusedDestination: a guarded pod that gets the address of one that was open to
// all hears nothing of a sender that goes on and on.
func (s *setup) reusedDestination() {
	ns := s.namespace("destination")
	s.t.Cleanup(func() { s.clear(ns) })
	listen := "stream-recv"
	s.apply(runner(ns, "open", "node2", "open", listen))
	addr := s.running(ns, "open")["open"][0]
	s.apply(runner(ns, "sender", "node1", "sender", fmt.Sprintf("stream-send, -duration, 120s, -rate, '500', %q", netip.AddrPortFrom(addr, 9000))) +
		fmt.Sprintf(`---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: %s, name: guard}
spec: {podSelector: {matchLabels: {role: guarded}}, policyTypes: [Ingress]}
`, ns))
	sender := s.running(ns, "sender")["sender"][0]
	s.wait(10*time.Second, "the sender to be heard", func(ctx context.Context) (bool, error) {
		heard, err := s.heard(ctx, ns, "open", sender)
		return len(heard) > 0, err
	})
	s.remove(ns, "open")
	next := s.takeAddress(ns, addr, func(name string) string { return runner(ns, name, "node2", "guarded", listen) })
	s.t.Logf("%s has the open pod's address %s", next, addr)
	s.wait(20*time.Second, next+" to listen for two seconds", func(ctx context.Context) (bool, error) {
		p, err := s.kube.Set.CoreV1().Pods(ns).Get(ctx, next, metav1.GetOptions{})
		if err != nil || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Running == nil {
			return false, err
		}
		return time.Since(p.Status.ContainerStatuses[0].State.Running.StartedAt.Time) > 2*time.Second, nil
	})
	heard, err := s.heard(context.Background(), ns, next, sender)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(heard) > 0 {
		s.t.Errorf("the guarded pod heard the sender: %v", heard)
	}
}

// heard are the lines in which a receiver tells of a new stream from an address.
func (s *setup) heard(ctx context.Context, ns, name string, from netip.Addr) (out []string, err error) {
	log, err := s.kube.Set.CoreV1().Pods(ns).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "stream ") && strings.Contains(line, " from "+from.String()+":") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out, err
}

// clear deletes the pods of a namespace at once.
func (s *setup) clear(ns string) {
	s.t.Helper()
	l, err := s.kube.Set.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, p := range l.Items {
		names = append(names, p.Name)
	}
	s.remove(ns, names...)
}

// remove deletes pods at once and waits until they are gone.
func (s *setup) remove(ns string, names ...string) {
	s.t.Helper()
	now := int64(0)
	for _, n := range names {
		if err := s.kube.Set.CoreV1().Pods(ns).Delete(context.Background(), n, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, n := range names {
		s.wait(20*time.Second, "pod "+n+" to go", func(ctx context.Context) (bool, error) {
			_, err := s.kube.Set.CoreV1().Pods(ns).Get(ctx, n, metav1.GetOptions{})
			return err != nil, nil
		})
	}
}

// takeAddress makes pods until one gets the address; the others stay, so that
// their addresses are taken.
func (s *setup) takeAddress(ns string, addr netip.Addr, manifest func(name string) string) string {
	s.t.Helper()
	for i := range 8 {
		name := fmt.Sprintf("next%d", i)
		s.apply(manifest(name))
		if s.running(ns, name)[name][0] == addr {
			return name
		}
	}
	s.t.Fatalf("no new pod got the address %s", addr)
	return ""
}
