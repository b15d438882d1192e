// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestTroubleTellsHowTheLastContainerEnded(t *testing.T) {
	last := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "error: there is no option \"x\"\n"}}
	pod := func(state corev1.ContainerState) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "agent", State: state, LastTerminationState: last, RestartCount: 11},
		}}}
	}
	for want, state := range map[string]corev1.ContainerState{
		`container agent: ended with 1: error: there is no option "x"`:                                             last,
		`container agent: running, not ready; started again 11 times, ended with 1: error: there is no option "x"`: {Running: &corev1.ContainerStateRunning{}},
		`container agent: CrashLoopBackOff, ended with 1: error: there is no option "x"`:                           {Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
	} {
		if got := podTrouble(pod(state)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
