// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/internal/bench"
	"github.com/stentor-net/stentor/lab/internal/kubeapi"
)

// policyPods run on the node whose policy changes.
const policyPods = 30

// running makes pods through the kubelet of a node and waits until all run.
func (l *labEnv) running(ctx context.Context, node string, count int) ([]corev1.Pod, error) {
	var list []*corev1.Pod
	for i := range count {
		list = append(list, benchPod(fmt.Sprintf("pod-%d", i), node, sameLabels(i)))
	}
	if _, err := l.create(ctx, list); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var out []corev1.Pod
	err := kubeapi.Wait(ctx, "pods to run", func(ctx context.Context) (bool, error) {
		got, err := l.kube.Set.CoreV1().Pods(benchNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		n := 0
		for _, p := range got.Items {
			if p.Status.Phase == corev1.PodRunning && p.Status.PodIP != "" {
				n++
			}
		}
		out = got.Items
		return n == count, nil
	})
	return out, err
}

const (
	policyName    = "bench"
	policyKind    = "CiliumNetworkPolicy"
	policyVersion = "cilium.io/v2"
)

// policyFrom lets only pods with the label into those of the measurement.
func policyFrom(app string) string {
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"namespace":%q},"spec":{"endpointSelector":{"matchLabels":{"app":"bench"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":%q}}]}]}}`,
		policyVersion, policyKind, policyName, benchNamespace, app)
}

// measurePolicy changes a policy again and again, and sees when packets show it.
func measurePolicy(ctx context.Context, e *Env) error {
	l, err := e.withLab(ctx)
	if err != nil {
		return err
	}
	undo, err := l.namespace(ctx)
	if err != nil {
		return err
	}
	defer undo()
	pods, err := l.running(ctx, "node1", policyPods)
	if err != nil {
		return err
	}
	at, err := l.node("node1")
	if err != nil {
		return err
	}
	defer at.close()
	if err := l.kube.Apply(ctx, policyFrom("bench")); err != nil {
		return err
	}
	if _, err := at.ask(request{Do: "probe", From: pods[0].Status.PodIP, To: pods[1].Status.PodIP}); err != nil {
		return err
	}
	if _, err := at.ask(request{Do: "change", Allowed: true}); err != nil {
		return err
	}
	took := map[bool][]float64{}
	var all, write []float64
	for i := range e.rounds(200) {
		allowed := i%2 == 1
		app := map[bool]string{true: "bench", false: "nobody"}[allowed]
		start := time.Now()
		err := l.kube.Merge(ctx, policyVersion, policyKind, benchNamespace, policyName, policyFrom(app))
		if err != nil {
			return err
		}
		returned := time.Now()
		r, err := at.ask(request{Do: "change", Since: start.UnixNano(), Allowed: allowed})
		if err != nil {
			return err
		}
		late := ms(time.Duration(r.At - returned.UnixNano()))
		took[allowed] = append(took[allowed], late)
		all = append(all, late)
		write = append(write, ms(returned.Sub(start)))
	}
	if _, err := at.ask(request{Do: "quiet"}); err != nil {
		return err
	}
	how := fmt.Sprintf("%d writes, a datagram every millisecond, %d pods; negative: before the API answered", len(all), policyPods)
	e.Add(bench.Median("policy written until first changed packet, median", "ms", all).Below(5).By("%s", how),
		bench.Quantile("policy written until first changed packet, p99", "ms", 0.99, all),
		bench.Median("the same, denied now", "ms", took[false]),
		bench.Median("the same, allowed now", "ms", took[true]),
		bench.Median("the write itself", "ms", write).By("the API server's answer"))
	return nil
}

// measureRestart replaces the agent of a node with pods.
func measureRestart(ctx context.Context, e *Env) error {
	l, err := e.withLab(ctx)
	if err != nil {
		return err
	}
	undo, err := l.namespace(ctx)
	if err != nil {
		return err
	}
	defer undo()
	pods, err := l.running(ctx, "node1", policyPods)
	if err != nil {
		return err
	}
	if err := l.kube.Apply(ctx, policyFrom("bench")); err != nil {
		return err
	}
	at, err := l.node("node1")
	if err != nil {
		return err
	}
	defer at.close()
	if _, err := at.ask(request{Do: "probe", From: pods[0].Status.PodIP, To: pods[1].Status.PodIP}); err != nil {
		return err
	}
	var took, away []float64
	for range e.rounds(9) {
		agents, err := l.kube.Set.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=stentor", FieldSelector: "spec.nodeName=node1"})
		if err != nil {
			return err
		}
		start := time.Now()
		for _, p := range agents.Items {
			if err := l.kube.Set.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
				return err
			}
		}
		r, err := at.ask(request{Do: "restarted", Since: start.UnixNano()})
		if err != nil {
			return err
		}
		took = append(took, r.Took...)
		away = append(away, ms(time.Duration(r.At-start.UnixNano())))
	}
	lost, err := at.ask(request{Do: "quiet"})
	if err != nil {
		return err
	}
	e.Add(bench.Median("restart of the agent until all is enforced", "ms", took).Below(1000).By("from the start of the process, %d pods, %d restarts", policyPods, len(took)),
		bench.Median("the agent's pod deleted until all is enforced", "ms", away).By("with what Kubernetes takes"),
		bench.Single("packets lost meanwhile", "", float64(lost.Lost)).By("of %d, one every millisecond", lost.Sent))
	return nil
}
