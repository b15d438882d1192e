// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
	"github.com/stentor-net/stentor/lab/internal/chart"
	"github.com/stentor-net/stentor/lab/internal/image"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// Release is the name of the product's Helm release, in this namespace.
const (
	release          = "stentor"
	releaseNamespace = "kube-system"
)

// chartValues are what an administrator would have to tell the chart about
// this cluster. The image's archive name changes with its content, so that an
// upgrade restarts what runs an old one.
func chartValues(p *plan.Plan, images []string, unified bool) object {
	cgroupRoot := "/sys/fs/cgroup/unified"
	if unified {
		cgroupRoot = "/sys/fs/cgroup"
	}

	repository, tag, _ := strings.Cut(image.Stentor, ":")
	img := object{"repository": repository, "tag": tag, "pullPolicy": "Never", "useDigest": false}
	build := ""
	if i := slices.IndexFunc(images, func(f string) bool { return strings.HasPrefix(f, repository+"-"+tag) }); i >= 0 {
		build = strings.TrimSuffix(images[i], ".tar")
	}
	annotations := object{"stentor.net/lab-image": build}
	pool := object{}
	native := object{}
	for _, c := range p.PodCIDRs {
		family, bits := "IPv4", 24
		if c.Addr().Is6() {
			family, bits = "IPv6", 64
		}
		pool["clusterPool"+family+"PodCIDRList"] = []any{c.String()}
		pool["clusterPool"+family+"MaskSize"] = bits
		native[strings.ToLower(family[:2])+family[2:]+"NativeRoutingCIDR"] = c.String()
	}
	v := object{
		"k8sServiceHost": p.APIHost().String(),
		"k8sServicePort": plan.APIPort,
		"cluster":        object{"name": "default"},
		"image":          img,
		"podAnnotations": annotations,
		"operator":       object{"image": img, "podAnnotations": annotations, "replicas": 1},
		"ipam":           object{"mode": "cluster-pool", "operator": pool},
		"ipv4":           object{"enabled": p.IPFamily != plan.IPv6},
		"ipv6":           object{"enabled": p.IPFamily != plan.IPv4},
		"routingMode":    p.RoutingMode,
		// Without kube-proxy nobody else carries services out.
		"kubeProxyReplacement": p.KubeProxy == plan.ProxyNone,
		"cgroup":               object{"autoMount": object{"enabled": false}, "hostRoot": cgroupRoot},
	}
	if p.RoutingMode == "native" {
		v["autoDirectNodeRoutes"] = true
		for k, c := range native {
			v[k] = c
		}
	}
	return v
}

// agentNotReady keeps pods away from a node until the agent there says that it
// can carry them, as administrators of real clusters do.
const agentNotReady = "node.cilium.io/agent-not-ready"

func taints(p *plan.Plan) []string {
	if p.CNI == plan.CNIStentor {
		return []string{agentNotReady}
	}
	return nil
}

// installCRDs needs nothing but the API server.
func (b *builder) installCRDs(ctx context.Context) error {
	crds, err := chart.CRDs(b.ChartDir)
	if err != nil {
		return err
	}
	if err := b.kube.EstablishCRDs(ctx, crds); err != nil {
		return err
	}
	b.phase("CRDs established")
	return nil
}

func (b *builder) chartOptions(images []string) chart.Options {
	p := b.Plan
	return chart.Options{
		Dir: b.ChartDir, Release: release, Namespace: releaseNamespace, Kubeconfig: p.Kubeconfig(),
		Values: chartValues(p, images, cgroup.Unified(b.cgroups)), Set: p.Set, Files: p.Values,
	}
}

// checkChart finds wrong values before anything is made.
func (b *builder) checkChart(ctx context.Context) error {
	if b.Plan.CNI != plan.CNIStentor {
		return nil
	}
	_, err := chart.Render(ctx, b.chartOptions(nil))
	return err
}

func (b *builder) installChart(ctx context.Context) error {
	res, err := chart.Install(ctx, b.chartOptions(b.state.Images))
	if err != nil {
		return err
	}
	if len(res.Unknown) > 0 {
		b.Out.Note("the chart has no value %s", chart.Describe(res.Unknown))
	}
	b.phase(fmt.Sprintf("chart installed (revision %d)", res.Revision))
	return nil
}

// waitInstalled waits until what the chart installed runs everywhere.
func (b *builder) waitInstalled(ctx context.Context) error {
	return b.wait(ctx, "Stentor", func(ctx context.Context) (bool, error) {
		return b.kube.WorkloadsReady(ctx, releaseNamespace)
	})
}
