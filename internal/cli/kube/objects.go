// SPDX-License-Identifier: Apache-2.0

package kube

import "strings"

// Metadata of an object, as far as it is read here.
type Metadata struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	Deleted   string            `json:"deletionTimestamp"` // RFC 3339; "" while it is to stay
}

// Pod as far as it is read here.
type Pod struct {
	Metadata Metadata `json:"metadata"`
	Spec     struct {
		NodeName    string      `json:"nodeName"`
		HostNetwork bool        `json:"hostNetwork"`
		Containers  []Container `json:"containers"`
	} `json:"spec"`
	Status struct {
		PodIPs            []PodIP           `json:"podIPs"`
		Phase             string            `json:"phase"`
		Reason            string            `json:"reason"`
		Conditions        []Condition       `json:"conditions"`
		ContainerStatuses []ContainerStatus `json:"containerStatuses"`
		InitStatuses      []ContainerStatus `json:"initContainerStatuses"`
	} `json:"status"`
}

// PodIP is an address of a pod.
type PodIP struct {
	IP string `json:"ip"`
}

// Container of a pod, as it was asked for.
type Container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

// Namespace as far as it is read here.
type Namespace struct {
	Metadata Metadata `json:"metadata"`
}

// Service as far as it is read here.
type Service struct {
	Metadata Metadata `json:"metadata"`
	Spec     struct {
		ClusterIPs []string `json:"clusterIPs"`
	} `json:"spec"`
}

// Node as far as it is read here.
type Node struct {
	Metadata Metadata `json:"metadata"`
	Spec     struct {
		Unschedulable bool `json:"unschedulable"`
	} `json:"spec"`
	Status struct {
		Conditions []Condition `json:"conditions"`
		Addresses  []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

// Ready tells that kubelet says so.
func (n Node) Ready() bool {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// Condition of an object.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// ContainerStatus of a pod's container.
type ContainerStatus struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	State struct {
		Running    *struct{}  `json:"running"`
		Waiting    *StateText `json:"waiting"`
		Terminated *StateText `json:"terminated"`
	} `json:"state"`
	LastState struct {
		Terminated *StateText `json:"terminated"`
	} `json:"lastState"`
	RestartCount int `json:"restartCount"`
}

// StateText explains a container's state.
type StateText struct {
	Reason   string `json:"reason"`
	Message  string `json:"message"`
	ExitCode int    `json:"exitCode"`
}

// DaemonSet as far as it is read here.
type DaemonSet struct {
	Metadata Metadata `json:"metadata"`
	Status   struct {
		Desired   int `json:"desiredNumberScheduled"`
		Ready     int `json:"numberReady"`
		Available int `json:"numberAvailable"`
		Updated   int `json:"updatedNumberScheduled"`
	} `json:"status"`
}

// Deployment as far as it is read here.
type Deployment struct {
	Metadata Metadata `json:"metadata"`
	Spec     struct {
		Replicas int `json:"replicas"`
	} `json:"spec"`
	Status struct {
		Ready     int `json:"readyReplicas"`
		Available int `json:"availableReplicas"`
	} `json:"status"`
}

// Endpoint is a CiliumEndpoint: the name of a pod that Stentor manages.
type Endpoint struct {
	Metadata Metadata `json:"metadata"`
	Status   struct {
		State string `json:"state"`
	} `json:"status"`
}

func (p Pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// Running tells that a container of the pod runs, ready or not.
func (p Pod) Running() bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil {
			return true
		}
	}
	return p.ready()
}

// Why tells in a few words what keeps a pod from being ready.
func (p Pod) Why() string {
	if p.ready() {
		return ""
	}
	for _, list := range [][]ContainerStatus{p.Status.InitStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			switch {
			case c.State.Waiting != nil && c.State.Waiting.Reason != "PodInitializing":
				return join(c.Name, c.State.Waiting, c.LastState.Terminated)
			case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
				return join(c.Name, c.State.Terminated, nil)
			}
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Status != "True" && c.Message != "" {
			return c.Message
		}
	}
	return p.Status.Phase + " " + p.Status.Reason
}

func join(container string, now, before *StateText) string {
	text := container + ": " + now.Reason
	if now.Message != "" {
		text += ": " + lastLine(now.Message)
	}
	if before != nil && before.Message != "" {
		text += ": " + lastLine(before.Message)
	}
	return text
}

// lastLine of a program's output says why it ended.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
