// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/cli/kube"
)

// BedOptions say where pods are made, and of what.
type BedOptions struct {
	Namespace string
	Image     string
	Nodes     []string
	HostPort  uint16
	Timeout   time.Duration
	Keep      bool

	roles []string // pods to make; nil is all
}

func (o *BedOptions) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.Namespace, "test-namespace", "stentor-test", "namespace for the pods, made and removed; a second one has -other after it")
	flags.StringVar(&o.Image, "image", "", "image of the pods, with the program stentor (default that of the agents)")
	flags.StringSliceVar(&o.Nodes, "nodes", nil, "one or two nodes to use (default the first two that are ready)")
	flags.Uint16Var(&o.HostPort, "host-port", 18080, "first of three ports that pods use in the network of their node")
	flags.DurationVar(&o.Timeout, "timeout", 5*time.Minute, "for everything")
	flags.BoolVar(&o.Keep, "keep", false, "leave the pods as they are; the next run removes them first")
}

func (o *BedOptions) validate() error {
	if len(o.Nodes) > 2 {
		return command.Usagef("--nodes takes one or two nodes, got %d", len(o.Nodes))
	}
	if o.HostPort == 0 || o.HostPort > 65533 {
		return command.Usagef("--host-port must leave room for three ports from 1 to 65535")
	}
	return nil
}

// TestOptions of `connectivity test`.
type TestOptions struct {
	command.Streams
	BedOptions
	Cluster func() (*kube.Cluster, error)
	Dial    func(kube.Agent) *client.Client

	Tests    []string
	List     bool
	External []string
	JUnit    string
	Output   command.Output

	external []external
	selected []check
}

// NewCmdTest makes `connectivity test`.
func NewCmdTest(f *command.Factory, runF func(context.Context, *TestOptions) error) *cobra.Command {
	o := &TestOptions{Streams: f.Streams, Cluster: f.Cluster, Dial: f.Dial}
	cmd := &cobra.Command{
		Use: "test", Args: command.NoArgs,
		Short: "Check paths, services, DNS, sizes and policies with pods of its own",
		Long: `Check that pods, nodes and services of the cluster reach each other as they must,
and that policies hold back what they must. Pods for it run in a namespace of
their own, which is removed at the end. Nothing outside of the cluster is needed.

A check that fails names every attempt that went wrong and the drops that agents
saw meanwhile. The exit code is 1 if a check failed.`,
		Example: `  stentor connectivity test
  stentor connectivity test --test policy,!cidr
  stentor connectivity test --external-target 192.0.2.7,www.example.org:443
  stentor connectivity test --junit-file report.xml -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.prepare(); err != nil {
				return err
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			if o.List {
				return o.list()
			}
			return run(cmd.Context(), o)
		},
	}
	o.BedOptions.addTo(cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&o.Tests, "test", nil, "run checks whose name matches one of these regular expressions and none with ! before it")
	flags.BoolVar(&o.List, "list", false, "list the checks and do nothing")
	flags.StringSliceVar(&o.External, "external-target", nil, "address or name outside of the cluster to ping, or with :PORT to connect to")
	flags.StringVar(&o.JUnit, "junit-file", "", "write the results to this file as JUnit's XML")
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func (o *TestOptions) prepare() error {
	if err := o.BedOptions.validate(); err != nil {
		return err
	}
	for _, text := range o.External {
		e, err := parseExternal(text)
		if err != nil {
			return command.Usagef("--external-target: %v", err)
		}
		o.external = append(o.external, e)
	}
	var err error
	o.selected, err = selectChecks(all(), o.Tests)
	return err
}

// selectChecks keeps those that match one of the patterns, if there is one
// without !, and none of those with it.
func selectChecks(checks []check, patterns []string) ([]check, error) {
	var yes, no []*regexp.Regexp
	for _, p := range patterns {
		text, not := strings.CutPrefix(p, "!")
		re, err := regexp.Compile(text)
		if err != nil || text == "" {
			return nil, command.Usagef("--test %q is not a regular expression", p)
		}
		if not {
			no = append(no, re)
		} else {
			yes = append(yes, re)
		}
	}
	matches := func(res []*regexp.Regexp, name string) bool {
		return slices.ContainsFunc(res, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}
	out := slices.DeleteFunc(slices.Clone(checks), func(c check) bool {
		return len(yes) > 0 && !matches(yes, c.name) || matches(no, c.name)
	})
	if len(out) == 0 {
		return nil, command.Usagef("--test %s leaves no check: see --list", strings.Join(patterns, ","))
	}
	return out, nil
}

func (o *TestOptions) list() error {
	type row struct {
		Name  string `json:"name"`
		About string `json:"about"`
	}
	var rows []row
	for _, c := range o.selected {
		rows = append(rows, row{c.name, c.about})
	}
	return command.Print(o.Streams, o.Output, []command.Column[row]{
		{Name: "CHECK", Value: func(r row) string { return r.Name }},
		{Name: "ABOUT", Value: func(r row) string { return r.About }},
	}, rows, nil)
}

// cleanupTimeout also bounds what an interrupted run does yet.
const cleanupTimeout = 60 * time.Second

func run(ctx context.Context, o *TestOptions) error {
	start := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(o.Err, "%5.1fs %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	report := &Report{}
	err := onBed(ctx, o.BedOptions, o.Cluster, say, func(ctx context.Context, b *bed, agents []kube.Agent) error {
		return o.runChecks(ctx, b, agents, report)
	})
	report.Duration = time.Since(start)
	if len(report.Results) > 0 {
		err = errors.Join(err, o.tell(report))
	}
	if err == nil && !report.OK {
		err = command.ErrSilent
	}
	return err
}

func (o *TestOptions) tell(report *Report) error {
	if o.JUnit != "" {
		f, err := os.Create(o.JUnit)
		if err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
		if err := errors.Join(report.writeJUnit(f), f.Close()); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	if !o.Output.ForPeople() {
		return command.PrintObject(o.Streams, o.Output, report)
	}
	report.print(o.Streams)
	return nil
}

// onBed makes the pods, works with them, and takes them away whatever happens.
func onBed(ctx context.Context, o BedOptions, open func() (*kube.Cluster, error), say func(string, ...any), work func(context.Context, *bed, []kube.Agent) error) (err error) {
	limited, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	cluster, err := open()
	if err != nil {
		return err
	}
	agents, err := cluster.Agents(limited)
	if err != nil {
		return fmt.Errorf("list the agents: %w", err)
	}
	b := &bed{cluster: cluster, say: say, namespace: o.Namespace, other: o.Namespace + "-other", image: o.Image, hostPort: o.HostPort, roles: o.roles}
	if b.image == "" {
		if len(agents) == 0 {
			return fmt.Errorf("no agent in namespace %s whose image could be used: give --image, or see --namespace", cluster.Namespace())
		}
		b.image = agents[0].Image
	}
	if err := b.chooseNodes(limited, agents, o.Nodes); err != nil {
		return err
	}
	defer func() {
		switch {
		case len(b.made) == 0:
			return
		case o.Keep:
			say("the pods in namespaces %s are kept", strings.Join(b.made, " and "))
			return
		}
		say("cleaning up")
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if rerr := b.remove(ctx); rerr != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", rerr))
		}
	}()
	if err := b.build(limited); err != nil {
		return err
	}
	return work(limited, b, agents)
}

// runChecks runs all at once but those that want the same pods alone.
func (o *TestOptions) runChecks(ctx context.Context, b *bed, agents []kube.Agent, report *Report) error {
	flowsCtx, stop := context.WithCancel(ctx)
	defer stop()
	var clients []*client.Client
	for _, a := range agents {
		if a.Node == b.near || a.Node == b.far {
			clients = append(clients, o.Dial(a))
		}
	}
	var names []string
	for _, p := range b.pods {
		if !p.Host {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	seen := follow(flowsCtx, clients, names, b.say)
	report.Nodes, report.Families = slices.DeleteFunc([]string{b.near, b.far}, func(n string) bool { return n == "" }), b.families
	given := len(o.external)
	fresh := func() *trial {
		return &trial{bed: b, flows: seen, external: o.external, unreachable: given > 0 && len(o.external) == 0, started: time.Now()}
	}
	o.external = fresh().reachable(ctx)
	results := make([]Result, len(o.selected))
	var mu sync.Mutex // guards printed: results come out in their order
	done := make([]bool, len(results))
	printed := 0
	finish := func(i int, x Result) {
		mu.Lock()
		defer mu.Unlock()
		results[i], done[i] = x, true
		for ; printed < len(results) && done[printed]; printed++ {
			if o.Output.ForPeople() {
				results[printed].print(o.Streams)
			}
			report.add(results[printed])
		}
	}
	lanes := map[string][]int{}
	var all sync.WaitGroup
	for i, c := range o.selected {
		if c.alone != "" {
			lanes[c.alone] = append(lanes[c.alone], i)
			continue
		}
		all.Go(func() { finish(i, runCheck(ctx, c, fresh())) })
	}
	for _, lane := range lanes {
		all.Go(func() {
			for _, i := range lane {
				finish(i, runCheck(ctx, o.selected[i], fresh()))
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

func runCheck(ctx context.Context, c check, t *trial) Result {
	x := Result{Name: c.name, About: c.about, Verdict: Passed}
	if c.needs != nil {
		x.Reason = c.needs(t)
	}
	if ctx.Err() != nil {
		x.Reason = "the run ended before"
	}
	if x.Reason != "" {
		x.Verdict = Skipped
		return x
	}
	c.run(ctx, t)
	end := time.Now()
	x.Duration, x.Tries, x.Notes, x.Failures = end.Sub(t.started), t.tries, t.notes, t.failures
	if len(x.Failures) > 0 {
		x.Verdict = Failed
		x.Flows = t.flows.of(t.started, end, t.failed)
	}
	return x
}
