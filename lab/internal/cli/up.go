// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/lab/internal/cluster"
	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

type upFlags struct {
	options plan.Options
	chart   string
	cache   string
	timeout time.Duration
}

func newUp() *cobra.Command {
	f := &upFlags{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring a lab up, or finish and refresh one that is up",
		Example: `  stentor lab up
  stentor lab up --nodes 3 --ip-family ipv6
  stentor lab up --name plain --cni bridge --kube-proxy iptables
  stentor lab up --set debug.enabled=true --values my-values.yaml`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUp(cmd, f) },
	}
	f.bind(cmd)
	return cmd
}

func (f *upFlags) bind(cmd *cobra.Command) {
	labFlags(cmd, &f.options)
	fl := cmd.Flags()
	fl.IntVar(&f.options.Nodes, "nodes", 2, "number of nodes, 1 to 5")
	fl.StringVar(&f.options.IPFamily, "ip-family", plan.Dual, "addresses: dual, ipv4 or ipv6")
	fl.StringVar(&f.options.CNI, "cni", plan.CNIStentor, "pod network: stentor or bridge")
	fl.StringVar(&f.options.KubeProxy, "kube-proxy", "", "service proxy of Kubernetes: none, nftables or iptables; empty: none, since Stentor carries services out, nftables with another CNI")
	fl.StringVar(&f.options.RoutingMode, "routing-mode", "tunnel", "between nodes: tunnel or native")
	fl.BoolVar(&f.options.PodRoutes, "pod-routes", false, "give the fabric routes to pods, so that the API server reaches them")
	fl.StringArrayVar(&f.options.Set, "set", nil, "chart value, KEY=VALUE (repeatable)")
	fl.StringArrayVarP(&f.options.Values, "values", "f", nil, "file with chart values (repeatable)")
	fl.StringVar(&f.chart, "chart", "", "Helm chart to install (default: deploy/chart of the source tree)")
	fl.StringVar(&f.cache, "cache", "", "folder for built images (default: .build/images of the source tree)")
	fl.DurationVar(&f.timeout, "timeout", 2*time.Minute, "time for everything but building images")
}

func runUp(cmd *cobra.Command, f *upFlags) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	lab, err := f.up(ctx, progress.New(os.Stderr))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "\n  export KUBECONFIG=%s\n  kubectl get nodes,pods -A -o wide\n", lab.Plan.Kubeconfig())
	return nil
}

// up fills in the folders that were not given, and brings the lab up.
func (f *upFlags) up(ctx context.Context, out *progress.Printer) (*cluster.Lab, error) {
	bins, err := binDir()
	if err != nil {
		return nil, err
	}
	repo := repoDir(bins)
	if f.chart == "" && repo != "" {
		f.chart = filepath.Join(repo, "deploy/chart")
	}
	if f.cache == "" {
		f.cache = defaultCache(bins)
	}
	for _, p := range []*string{&f.cache, &f.chart} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	if _, err := plan.New(f.options); err != nil {
		return nil, usageError{err}
	}
	lab, err := cluster.Up(ctx, cluster.UpOptions{
		Options: f.options, BinDir: bins, CacheDir: f.cache, ChartDir: f.chart, Timeout: f.timeout, Out: out,
	})
	if err != nil {
		return nil, err
	}
	out.Step("lab %q is up", lab.Plan.Name)
	return lab, nil
}

func newDown() *cobra.Command {
	var o plan.Options
	cmd := &cobra.Command{
		Use: "down", Short: "Remove a lab without a trace", Example: "  stentor lab down --name plain", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("a lab needs root (sudo stentor lab down)")
			}
			if _, err := plan.New(o); err != nil {
				return usageError{err}
			}
			out := progress.New(os.Stderr)
			found, err := cluster.Down(o)
			if err != nil {
				return err
			}
			if found {
				out.Step("lab %q is gone", o.Name)
			} else {
				out.Note("there is no lab %q", o.Name)
			}
			return nil
		},
	}
	labFlags(cmd, &o)
	return cmd
}
