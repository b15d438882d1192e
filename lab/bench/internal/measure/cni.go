// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/stentor-net/stentor/internal/bench"
)

// Pods of the measurements of CNI ADD.
const (
	podsInARow   = 100
	podsNew      = 30 // each with labels that nobody has
	podsParallel = 50
	podsDirect   = 30 // without the plugin
	podsKubelet  = 15
)

// attacher attaches pods of the API to one node, whose kubelet stands still.
type attacher struct {
	*labEnv
	at *labNode
}

// pods makes count pods in the API, and waits until the agent knows them.
func (a *attacher) pods(ctx context.Context, prefix string, count int, labels func(int) map[string]string) ([]podRef, error) {
	before, err := a.at.ask(request{Do: "rows", Table: "pods"})
	if err != nil {
		return nil, err
	}
	var list []*corev1.Pod
	for i := range count {
		list = append(list, benchPod(fmt.Sprintf("%s-%d", prefix, i), a.at.name, labels(i)))
	}
	refs, err := a.create(ctx, list)
	if err != nil {
		return nil, err
	}
	_, err = a.at.ask(request{Do: "rows", Table: "pods", Count: before.Rows + count})
	return refs, err
}

func sameLabels(int) map[string]string { return map[string]string{"app": "bench"} }

// measureCNI attaches pods as a runtime does, one at a time by processes of the plugin.
func measureCNI(ctx context.Context, e *Env) error {
	l, err := e.withLab(ctx)
	if err != nil {
		return err
	}
	undo, err := l.namespace(ctx)
	if err != nil {
		return err
	}
	defer undo()
	if err := l.measureKubelet(ctx, e); err != nil {
		return err
	}
	at, err := l.node("node1")
	if err != nil {
		return err
	}
	defer at.close()
	if _, err := at.ask(request{Do: "freeze"}); err != nil {
		return err
	}
	a := &attacher{labEnv: l, at: at}
	if err := a.inARow(ctx, e); err != nil {
		return err
	}
	if err := a.newIdentities(ctx, e); err != nil {
		return err
	}
	return a.atOnce(ctx, e)
}

// inARow attaches pods whose identity is known, in turns with the bridge plugin.
func (a *attacher) inARow(ctx context.Context, e *Env) error {
	n := e.rounds(podsInARow)
	pods, err := a.pods(ctx, "row", n+1, sameLabels)
	if err != nil {
		return err
	}
	first, pods := pods[:1], pods[1:]
	for _, plugin := range []string{pluginStentor, pluginBridge} { // the identity, and the bridge, are made with the first
		if _, err := a.at.ask(request{Do: "add", Plugin: plugin, Pods: first}); err != nil {
			return err
		}
	}
	took, gone := map[string][]float64{}, map[string][]float64{}
	for _, p := range pods {
		for _, plugin := range []string{pluginStentor, pluginBridge} {
			r, err := a.at.ask(request{Do: "add", Plugin: plugin, Pods: []podRef{p}})
			if err != nil {
				return err
			}
			took[plugin] = append(took[plugin], r.Took...)
		}
	}
	for _, plugin := range []string{pluginStentor, pluginBridge} {
		r, err := a.at.ask(request{Do: "del", Plugin: plugin, Pods: pods})
		if err != nil {
			return err
		}
		gone[plugin] = r.Took
	}
	process, err := a.at.ask(request{Do: "exec", Count: 30})
	if err != nil {
		return err
	}
	// An address rests after use: all together must fit into the node's 254.
	again := pods[:min(podsDirect, len(pods))]
	direct, err := a.at.ask(request{Do: "direct", Pods: again})
	if err != nil {
		return err
	}
	if _, err := a.at.ask(request{Do: "del", Plugin: pluginStentor, Pods: append(first, again...)}); err != nil {
		return err
	}
	if _, err := a.at.ask(request{Do: "del", Plugin: pluginBridge, Pods: first[:1]}); err != nil {
		return err
	}
	how := fmt.Sprintf("%d in a row, process of the plugin from start to end; pods and identity known", n)
	s, b := took[pluginStentor], took[pluginBridge]
	e.Add(
		bench.Quantile("CNI ADD p50", "ms", 0.5, s).Below(5).By("%s", how),
		bench.Quantile("CNI ADD p99", "ms", 0.99, s).Below(15).By("%s", how),
		bench.Median("CNI ADD p50, of it the agent", "ms", direct.Took).By("the agent's socket, without the plugin"),
		bench.Median("CNI ADD p50, of it a process of the plugin", "ms", process.Took).By("CNI_COMMAND=VERSION"),
		bench.Quantile("CNI ADD p50, bridge plugin", "ms", 0.5, b).By("in turns with ours; bridge and host-local, both families"),
		bench.Quantile("CNI ADD p99, bridge plugin", "ms", 0.99, b),
		bench.Median("CNI DEL p50", "ms", gone[pluginStentor]),
		bench.Median("CNI DEL p50, bridge plugin", "ms", gone[pluginBridge]),
	)
	return a.deletePods(ctx)
}

func (a *attacher) newIdentities(ctx context.Context, e *Env) error {
	n := e.rounds(podsNew)
	run := time.Now().UnixNano() // identities of an earlier run may still be there
	pods, err := a.pods(ctx, "new", n, func(i int) map[string]string {
		return map[string]string{"app": fmt.Sprintf("bench-%d-%d", run, i)}
	})
	if err != nil {
		return err
	}
	r, err := a.at.ask(request{Do: "add", Plugin: pluginStentor, Pods: pods})
	if err != nil {
		return err
	}
	if _, err := a.at.ask(request{Do: "del", Plugin: pluginStentor, Pods: pods}); err != nil {
		return err
	}
	e.Add(bench.Quantile("CNI ADD p50, new identity", "ms", 0.5, r.Took).By("%d in a row, each makes an identity in the API", n),
		bench.Quantile("CNI ADD p99, new identity", "ms", 0.99, r.Took))
	return a.deletePods(ctx)
}

func (a *attacher) atOnce(ctx context.Context, e *Env) error {
	pods, err := a.pods(ctx, "once", podsParallel, sameLabels)
	if err != nil {
		return err
	}
	start := time.Now()
	r, err := a.at.ask(request{Do: "add", Plugin: pluginStentor, Pods: pods, Parallel: true})
	if err != nil {
		return err
	}
	all := time.Since(start)
	if _, err := a.at.ask(request{Do: "del", Plugin: pluginStentor, Pods: pods}); err != nil {
		return err
	}
	e.Add(bench.Quantile("CNI ADD p50, at once", "ms", 0.5, r.Took).By("%d plugins started together, on two processors", podsParallel),
		bench.Quantile("CNI ADD p99, at once", "ms", 0.99, r.Took),
		bench.Single("CNI ADD, all of them", "ms", ms(all)).By("with making their namespaces"))
	return a.deletePods(ctx)
}

// measureKubelet compares pods with a network of their own with those of the
// host's: the difference is the network's.
func (l *labEnv) measureKubelet(ctx context.Context, e *Env) error {
	took := map[bool][]float64{}
	for i := range e.rounds(podsKubelet) {
		for _, own := range []bool{true, false} {
			p := benchPod(fmt.Sprintf("kubelet-%d-%v", i, own), "node1", sameLabels(i))
			p.Spec.HostNetwork = !own
			t, err := l.untilRunning(ctx, p)
			if err != nil {
				return err
			}
			took[own] = append(took[own], ms(t))
		}
	}
	var more []float64
	for i := range took[true] {
		more = append(more, took[true][i]-took[false][i])
	}
	e.Add(bench.Median("through kubelet: pod created until running", "ms", took[true]).By("seen by a watch of the API"),
		bench.Median("through kubelet: the same with the host's network", "ms", took[false]),
		bench.Median("through kubelet: the difference", "ms", more))
	return l.deletePods(ctx)
}

// untilRunning creates a pod and waits until the API says that it runs.
func (l *labEnv) untilRunning(ctx context.Context, p *corev1.Pod) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	w, err := l.kube.Set.CoreV1().Pods(p.Namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + p.Name})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	start := time.Now()
	if _, err := l.create(ctx, []*corev1.Pod{p}); err != nil {
		return 0, err
	}
	for event := range w.ResultChan() {
		if now, ok := event.Object.(*corev1.Pod); ok && event.Type != watch.Deleted && now.Status.Phase == corev1.PodRunning {
			return time.Since(start), nil
		}
	}
	return 0, fmt.Errorf("pod %s does not run within 30 s", p.Name)
}
