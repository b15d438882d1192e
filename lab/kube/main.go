// SPDX-License-Identifier: Apache-2.0

// Command stentor-kube is the Kubernetes of the lab: one binary that is a
// whole control plane, a kubelet or a kube-proxy, by its first argument.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const usage = `usage: stentor-kube ROLE [flags]

roles:
  control-plane   etcd, kube-apiserver, kube-controller-manager and kube-scheduler in one process
  kubelet         the node agent of Kubernetes
  kube-proxy      the service proxy of Kubernetes
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	role, args := os.Args[1], os.Args[2:]
	var cmd *cobra.Command
	switch role {
	case "control-plane":
		if err := controlPlane(args); err != nil {
			fmt.Fprintln(os.Stderr, "stentor-kube:", err)
			os.Exit(1)
		}
		return
	case "kubelet":
		// The kubelet installs its own signal handler; a second one panics,
		// so it gets a plain context.
		cmd = kubelet.NewKubeletCommand(context.Background())
	case "kube-proxy":
		cmd = kproxy.NewProxyCommand()
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	cmd.SetArgs(args)
	os.Args = append([]string{role}, args...)
	os.Exit(cli.Run(cmd))
}
