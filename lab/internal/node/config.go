// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// PauseImage is the sandbox image of every pod.
const PauseImage = "docker.io/library/pause:dev"

// containerdConfig is version 2 of the format: Debian 12 has containerd 1.6,
// and 1.7 and 2.x convert it by themselves. restrict_oom_score_adj: a machine
// without CAP_SYS_RESOURCE may not lower it, and runc would give up.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "` + criSocket + `"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "` + PauseImage + `"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`

// RestartPeriod caps the wait before a crashed container is started again:
// in a lab people break things on purpose.
const RestartPeriod = time.Second

type object = map[string]any

func kubeletConfig(s *Spec) object {
	var dns []string
	for _, a := range s.DNS {
		dns = append(dns, a.String())
	}
	taints := []object{}
	for _, key := range s.Taints {
		taints = append(taints, object{"key": key, "value": "true", "effect": "NoExecute"})
	}
	return object{
		"registerWithTaints":       taints,
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"failCgroupV1":             false,
		"cgroupDriver":             "cgroupfs",
		"containerRuntimeEndpoint": "unix://" + criSocket,
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": "/etc/kubernetes/ca.crt"},
		},
		"authorization": object{"mode": "Webhook"},
		"clusterDNS":    dns[:1],
		"clusterDomain": "cluster.local",
		"resolvConf":    "/etc/resolv.conf",
		"failSwapOn":    false,
		"evictionHard": object{
			"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
		},
		"imageGCHighThresholdPercent": 100,
		"imageGCLowThresholdPercent":  99,
		"nodeStatusUpdateFrequency":   "5s",
		"shutdownGracePeriod":         "0s",
		"featureGates":                object{"KubeletCrashLoopBackOffMax": true},
		"crashLoopBackOff":            object{"maxContainerRestartPeriod": RestartPeriod.String()},
	}
}

func proxyConfig(s *Spec) object {
	var pods []string
	for _, p := range s.PodCIDRs {
		pods = append(pods, p.String())
	}
	return object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"mode":             s.KubeProxy,
		"clientConnection": object{"kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig"},
		"clusterCIDR":      strings.Join(pods, ","),
		"hostnameOverride": s.Name,
		// Zero leaves alone what only the machine's first network namespace may set.
		"conntrack": object{
			"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
		},
	}
}

// writeConfig fills the node's /etc.
func writeConfig(s *Spec) error {
	etc := func(elem ...string) string { return filepath.Join(append([]string{s.Dir, "etc"}, elem...)...) }
	if err := os.WriteFile(etc("containerd/config.toml"), []byte(containerdConfig), 0o644); err != nil {
		return err
	}
	docs := map[string]object{"kubernetes/kubelet.yaml": kubeletConfig(s)}
	if s.KubeProxy != "none" {
		docs["kubernetes/kube-proxy.yaml"] = proxyConfig(s)
	}
	for name, doc := range docs {
		b, err := yaml.Marshal(doc)
		if err != nil {
			return err
		}
		if err := os.WriteFile(etc(name), b, 0o644); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{
		"ca.crt":                            "ca.crt",
		"kubelet-" + s.Name + ".kubeconfig": "kubelet.kubeconfig",
		"kube-proxy.kubeconfig":             "kube-proxy.kubeconfig",
	} {
		b, err := os.ReadFile(filepath.Join(s.PKIDir, from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(etc("kubernetes", to), b, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(etc("hosts"), []byte(hostsFile(s)), 0o644)
}

func hostsFile(s *Spec) string {
	b := &strings.Builder{}
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	for _, name := range slices.Sorted(maps.Keys(s.Hosts)) {
		for _, addr := range strings.Split(s.Hosts[name], ",") {
			fmt.Fprintf(b, "%s %s\n", addr, name)
		}
	}
	return b.String()
}
