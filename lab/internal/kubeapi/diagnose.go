// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxEvents bounds the events in a diagnosis.
const maxEvents = 10

// Diagnose tells, in lines for a person, which nodes and pods are not ready
// and why, and the newest warnings.
func (c *Client) Diagnose(ctx context.Context) string {
	b := &strings.Builder{}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return fmt.Sprintf("the API server does not answer: %v\n", err)
	}
	if len(nodes) == 0 {
		b.WriteString("no node has registered\n")
	}
	for _, n := range nodes {
		if ok, why := NodeReady(&n); !ok {
			fmt.Fprintf(b, "node %s is not ready: %s\n", n.Name, why)
		}
	}
	pods, err := c.Set.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, p := range pods.Items {
			if why := podTrouble(&p); why != "" {
				fmt.Fprintf(b, "pod %s/%s on %s: %s\n", p.Namespace, p.Name, p.Spec.NodeName, why)
			}
		}
	}
	events, err := c.Set.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "type=Warning"})
	if err == nil {
		slices.SortFunc(events.Items, func(x, y corev1.Event) int { return lastSeen(&y).Compare(lastSeen(&x).Time) })
		// An old machine's cgroups are no news to the person who owns it.
		events.Items = slices.DeleteFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "CgroupV1" })
		for _, e := range events.Items[:min(len(events.Items), maxEvents)] {
			fmt.Fprintf(b, "event %s %s/%s: %s: %s\n", lastSeen(&e).UTC().Format("15:04:05"), e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	return b.String()
}

func lastSeen(e *corev1.Event) *metav1.Time {
	if !e.LastTimestamp.IsZero() {
		return &e.LastTimestamp
	}
	return &e.CreationTimestamp
}

// podTrouble is empty for a pod that is as it should be.
func podTrouble(p *corev1.Pod) string {
	if p.Status.Phase == corev1.PodSucceeded {
		return ""
	}
	var why []string
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			why = append(why, "not scheduled: "+c.Message)
		}
	}
	for _, s := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		switch st := s.State; {
		case st.Waiting != nil && st.Waiting.Reason != "PodInitializing":
			text := strings.TrimSuffix(fmt.Sprintf("container %s: %s: %s", s.Name, st.Waiting.Reason, st.Waiting.Message), ": ")
			if last := s.LastTerminationState.Terminated; last != nil && last.ExitCode != 0 {
				text += ", " + ended(last)
			}
			why = append(why, text)
		case st.Terminated != nil && st.Terminated.ExitCode != 0:
			why = append(why, fmt.Sprintf("container %s: %s", s.Name, ended(st.Terminated)))
		case st.Running != nil && !s.Ready && !isInit(p, s.Name):
			text := fmt.Sprintf("container %s: running, not ready", s.Name)
			// One that ends again and again runs most of the time.
			if last := s.LastTerminationState.Terminated; last != nil && last.ExitCode != 0 {
				text += fmt.Sprintf("; started again %d times, %s", s.RestartCount, ended(last))
			}
			why = append(why, text)
		}
	}
	if len(why) == 0 && p.Status.Phase == corev1.PodPending {
		return "pending"
	}
	return strings.Join(why, "; ")
}

// ended says how a container ended, in one line.
func ended(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("ended with %d: %s", t.ExitCode, strings.Join(strings.Fields(t.Message), " "))
	return strings.TrimSuffix(text, ": ")
}

func isInit(p *corev1.Pod, name string) bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}
