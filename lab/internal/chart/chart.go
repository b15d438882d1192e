// SPDX-License-Identifier: Apache-2.0

// Package chart installs a Helm chart into a lab.
package chart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	helmchart "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	"helm.sh/helm/v3/pkg/getter"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// Options say what to install and where.
type Options struct {
	Dir        string // the chart
	Release    string
	Namespace  string
	Kubeconfig string
	Values     map[string]any // the lab's own; only those that the chart knows are given
	Set        []string       // a person's, KEY=VALUE; they win
	Files      []string       // a person's, files; they win over Values
}

func (o Options) validate() error {
	if o.Dir == "" || o.Release == "" || o.Namespace == "" {
		return errors.New("chart: folder, release and namespace are needed")
	}
	return nil
}

// Result tells what was done.
type Result struct {
	Revision int
	Unknown  []string // of Options.Values, those that the chart has not
}

// CRDs are the chart's custom resource definitions, YAML. Install leaves them
// out: it would wait for each with seconds between two looks, and Helm never
// upgrades them.
func CRDs(dir string) ([]string, error) {
	ch, err := loader.Load(dir)
	if err != nil {
		return nil, fmt.Errorf("chart: %w", err)
	}
	var out []string
	for _, c := range ch.CRDObjects() {
		out = append(out, string(c.File.Data))
	}
	return out, nil
}

// Install installs the chart without its CRDs, or upgrades the release that is
// there. It does not wait for anything to run.
func Install(ctx context.Context, o Options) (*Result, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	ch, vals, unknown, err := load(o)
	if err != nil {
		return nil, err
	}
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &o.Kubeconfig, &o.Namespace
	cfg := new(action.Configuration)
	if err := cfg.Init(flags, o.Namespace, "secret", func(string, ...any) {}); err != nil {
		return nil, fmt.Errorf("chart: %w", err)
	}
	history := action.NewHistory(cfg)
	history.Max = 1
	_, err = history.Run(o.Release)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, fmt.Errorf("chart: %w", err)
	}
	if err != nil {
		in := action.NewInstall(cfg)
		in.ReleaseName, in.Namespace, in.CreateNamespace = o.Release, o.Namespace, true
		in.SkipCRDs, in.DisableOpenAPIValidation = true, true
		rel, err := in.RunWithContext(ctx, ch, vals)
		if err != nil {
			return nil, fmt.Errorf("install chart %s: %w", o.Dir, err)
		}
		return &Result{Revision: rel.Version, Unknown: unknown}, nil
	}
	up := action.NewUpgrade(cfg)
	up.Namespace, up.MaxHistory = o.Namespace, 3
	up.SkipCRDs, up.DisableOpenAPIValidation = true, true
	rel, err := up.RunWithContext(ctx, o.Release, ch, vals)
	if err != nil {
		return nil, fmt.Errorf("upgrade chart %s: %w", o.Dir, err)
	}
	return &Result{Revision: rel.Version, Unknown: unknown}, nil
}

// Render is the YAML that Install would send, without a cluster.
func Render(ctx context.Context, o Options) (string, error) {
	if err := o.validate(); err != nil {
		return "", err
	}
	ch, vals, _, err := load(o)
	if err != nil {
		return "", err
	}
	in := action.NewInstall(new(action.Configuration))
	in.ReleaseName, in.Namespace = o.Release, o.Namespace
	in.DryRun, in.ClientOnly = true, true
	in.KubeVersion = &chartutil.KubeVersion{Version: "v1.36.3", Major: "1", Minor: "36"} // the library's own is very old
	in.SkipCRDs = true
	rel, err := in.RunWithContext(ctx, ch, vals)
	if err != nil {
		return "", fmt.Errorf("render chart %s: %w", o.Dir, err)
	}
	return rel.Manifest, nil
}

func load(o Options) (*helmchart.Chart, map[string]any, []string, error) {
	ch, err := loader.Load(o.Dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("chart: %w", err)
	}
	opts := values.Options{ValueFiles: o.Files, Values: o.Set}
	mine, err := opts.MergeValues(getter.Providers{})
	if err != nil {
		return nil, nil, nil, fmt.Errorf("chart values: %w", err)
	}
	known, unknown := split(o.Values, ch.Values, "")
	slices.Sort(unknown)
	return ch, merge(known, mine), unknown, nil
}

// split keeps of vals what defaults have too, and names the rest: a chart with
// a strict schema refuses what it does not know.
func split(vals, defaults map[string]any, prefix string) (known map[string]any, unknown []string) {
	known = map[string]any{}
	for k, v := range vals {
		d, ok := defaults[k]
		if !ok {
			unknown = append(unknown, prefix+k)
			continue
		}
		sub, isMap := v.(map[string]any)
		subDefaults, defaultIsMap := d.(map[string]any)
		// An empty default map takes anything, like labels and annotations.
		if isMap && defaultIsMap && len(subDefaults) > 0 {
			k2, u2 := split(sub, subDefaults, prefix+k+".")
			known[k] = k2
			unknown = append(unknown, u2...)
			continue
		}
		known[k] = v
	}
	return known, unknown
}

// merge lays over upon base.
func merge(base, over map[string]any) map[string]any {
	for k, v := range over {
		b, ok := base[k].(map[string]any)
		o, ok2 := v.(map[string]any)
		if ok && ok2 {
			base[k] = merge(b, o)
			continue
		}
		base[k] = v
	}
	return base
}

// Describe names values for a person.
func Describe(names []string) string { return strings.Join(names, ", ") }
