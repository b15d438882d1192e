// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stentor-net/stentor/lab/internal/cluster"
	"github.com/stentor-net/stentor/lab/internal/conformance"
	"github.com/stentor-net/stentor/lab/internal/image"
	"github.com/stentor-net/stentor/lab/internal/kubeapi"
	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

type conformanceFlags struct {
	up     upFlags
	suite  string
	only   string
	procs  int
	limit  time.Duration
	report string
	keep   bool
}

func newConformance() *cobra.Command {
	f := &conformanceFlags{}
	var about []string
	for _, s := range conformance.Suites {
		about = append(about, fmt.Sprintf("  %-10s %s", s.Name, s.About))
	}
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Run Kubernetes' own network suite in a lab of its own",
		Long: `Run Kubernetes' own network suite in a lab of its own.

The lab comes up, with routes from the API server to the pods, the suite's
specs run in it, and the lab goes, whatever the end. The exit code is 1 if a
spec failed or did not end. "make conformance" builds what is needed.

Suites:
` + strings.Join(about, "\n"),
		Example: `  stentor lab conformance
  stentor lab conformance --suite netpol --procs 8
  stentor lab conformance --name plain --cni bridge --only 'DNS' --keep`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runConformance(cmd, f) },
	}
	f.up.bind(cmd)
	fl := cmd.Flags()
	f.up.options.Name = "conformance"
	fl.Lookup("name").DefValue = f.up.options.Name
	fl.StringVar(&f.suite, "suite", "network", "specs to run")
	fl.StringVar(&f.only, "only", "", "expression that the specs' names must match as well")
	fl.IntVar(&f.procs, "procs", 6, "specs at the same time")
	fl.DurationVar(&f.limit, "limit", 10*time.Minute, "time for all specs")
	fl.StringVar(&f.report, "report", "", "folder for JUnit report and logs (default: .build/conformance of the source tree)")
	fl.BoolVar(&f.keep, "keep", false, "leave the lab up")
	return cmd
}

func runConformance(cmd *cobra.Command, f *conformanceFlags) (err error) {
	suite, err := conformance.Find(f.suite)
	if err != nil {
		return usageError{err}
	}
	if f.procs < 1 || f.limit <= 0 {
		return usageError{errors.New("want --procs and --limit above 0")}
	}
	only, err := regexp.Compile(f.only)
	if err != nil {
		return usageError{fmt.Errorf("--only: %w", err)}
	}
	if _, err := cluster.Load(f.up.options); err == nil && !f.keep {
		return fmt.Errorf("lab %q is there already: --keep runs in it and leaves it, stentor lab down --name %[1]s removes it", f.up.options.Name)
	}
	bins, err := binDir()
	if err != nil {
		return err
	}
	if err := conformanceBinaries(bins); err != nil {
		return err
	}
	if f.report == "" {
		f.report = filepath.Join(filepath.Dir(defaultCache(bins)), "conformance")
	}
	if f.report, err = filepath.Abs(f.report); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := progress.New(os.Stderr)
	f.up.options.PodRoutes = true
	zones := suite.Nodes > 0 && !cmd.Flags().Changed("nodes")
	if zones {
		f.up.options.Nodes = suite.Nodes
	}
	if !f.keep {
		// Before it comes up: what is half there must go too.
		defer func() { err = errors.Join(err, takeDown(f.up.options, out)) }()
	}
	lab, err := f.up.up(ctx, out)
	if err != nil {
		return err
	}
	if err := loadUpstream(ctx, lab, bins, f.up.cache, out); err != nil {
		return err
	}
	if zones {
		if err := inZones(ctx, lab.Plan); err != nil {
			return err
		}
	}
	return conformance.Run(ctx, conformance.Options{
		Plan: lab.Plan, BinDir: bins, Suite: suite, Only: only,
		Procs: f.procs, Limit: f.limit, Report: f.report, Out: out,
	})
}

// inZones puts each node into a zone of its own.
func inZones(ctx context.Context, p *plan.Plan) error {
	kube, err := kubeapi.New(p.Kubeconfig())
	if err != nil {
		return err
	}
	for i, n := range p.Nodes {
		patch := fmt.Sprintf(`{"metadata":{"labels":{%q:"zone%d"}}}`, corev1.LabelTopologyZone, i+1)
		if _, err := kube.Set.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("put node %s into a zone: %w", n.Name, err)
		}
	}
	return nil
}

func conformanceBinaries(bins string) error {
	var missing []string
	for _, b := range conformance.Binaries() {
		if _, err := os.Stat(filepath.Join(bins, b)); err != nil {
			missing = append(missing, b)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing in %s: %s\n  make conformance-build", bins, strings.Join(missing, " "))
}

// loadUpstream imports the images of the suite's pods into all nodes.
func loadUpstream(ctx context.Context, lab *cluster.Lab, bins, cache string, out *progress.Printer) error {
	b := image.Builder{BinDir: bins, Cache: cache, Note: func(s string) { out.Note("%s", s) }}
	for _, name := range image.Upstream {
		file, err := b.Build(name)
		if err != nil {
			return err
		}
		if err := lab.LoadArchive(ctx, filepath.Join(cache, file)); err != nil {
			return err
		}
	}
	out.Step("the suite's images imported")
	return nil
}

func takeDown(o plan.Options, out *progress.Printer) error {
	if _, err := cluster.Down(o); err != nil {
		return err
	}
	out.Step("lab %q is gone", o.Name)
	return nil
}
