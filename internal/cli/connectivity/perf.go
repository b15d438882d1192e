// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
	"github.com/stentor-net/stentor/internal/cli/kube"
)

// PerfOptions of `connectivity perf`.
type PerfOptions struct {
	command.Streams
	BedOptions
	Cluster func() (*kube.Cluster, error)

	Duration time.Duration
	Family   string
	Output   command.Output
}

// Families that can be asked for.
const (
	firstFamily = "first"
	ipv4        = "ipv4"
	ipv6        = "ipv6"
)

// NewCmdPerf makes `connectivity perf`.
func NewCmdPerf(f *command.Factory, runF func(context.Context, *PerfOptions) error) *cobra.Command {
	o := &PerfOptions{Streams: f.Streams, Cluster: f.Cluster}
	cmd := &cobra.Command{
		Use: "perf", Args: command.NoArgs,
		Short: "Measure latency and throughput with pods of its own",
		Long: `Measure TCP between pods of one node and of two nodes and through a service, and
beside it between the nodes themselves, which is what the machines can do.

Round trips are questions and answers of one byte over one connection; with
connections each has one of its own. Throughput is that of one connection.`,
		Example: `  stentor connectivity perf
  stentor connectivity perf --duration 10s --family ipv6 -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.BedOptions.validate(); err != nil {
				return err
			}
			if o.Duration <= 0 {
				return command.Usagef("--duration must be more than 0")
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return perf(cmd.Context(), o)
		},
	}
	o.BedOptions.addTo(cmd)
	cmd.Flags().DurationVar(&o.Duration, "duration", 3*time.Second, "of each measurement")
	command.Enum(cmd, &o.Family, "family", "", []string{firstFamily, ipv4, ipv6}, "addresses to use")
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

// PerfResult is what one path can do; times in nanoseconds.
type PerfResult struct {
	Path        string         `json:"path"`
	From        string         `json:"from"`
	To          string         `json:"to"`
	RoundTrips  *probe.Measure `json:"roundTrips,omitempty"`
	Connections *probe.Measure `json:"connections,omitempty"`
	Stream      *probe.Measure `json:"stream,omitempty"`
	Errors      []string       `json:"errors,omitempty"`
}

// lane is a path to measure.
type lane struct {
	name    string
	from    *pod
	to      string // address
	ports   [3]uint16
	toNamed string
}

func perf(ctx context.Context, o *PerfOptions) error {
	start := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(o.Err, "%5.1fs %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	var results []PerfResult
	o.roles = []string{visitor, serverNear, serverFar, hostNear, hostFar}
	err := onBed(ctx, o.BedOptions, o.Cluster, say, func(ctx context.Context, b *bed, _ []kube.Agent) error {
		family, err := b.family(o.Family)
		if err != nil {
			return err
		}
		for _, l := range b.lanes(family) {
			say("%s", l.name)
			results = append(results, l.measure(ctx, o.Duration))
		}
		return context.Cause(ctx)
	})
	if len(results) > 0 {
		err = errors.Join(err, printPerf(o, results))
	}
	for _, r := range results {
		if len(r.Errors) > 0 && err == nil {
			err = command.ErrSilent
		}
	}
	return err
}

// family chooses one that pods have.
func (b *bed) family(name string) (int, error) {
	for _, f := range b.families {
		if name == firstFamily || name == ipv4 && f == 4 || name == ipv6 && f == 6 {
			return f, nil
		}
	}
	return 0, fmt.Errorf("pods of this cluster have no %s address", name)
}

func (b *bed) lanes(family int) (out []lane) {
	direct := func(name, from, to string) {
		src, dst := b.pods[from], b.pods[to]
		if src == nil || dst == nil {
			return
		}
		if ip, ok := dst.ip(family); ok {
			out = append(out, lane{name, src, ip.String(), [3]uint16{dst.Port + probe.EchoPort, dst.Port + probe.EchoPort, dst.Port + probe.StreamPort}, to})
		}
	}
	service := func(name, from, to string) {
		for _, ip := range b.services[to] {
			if familyOf(ip) == family {
				out = append(out, lane{name, b.pods[from], ip.String(), [3]uint16{7, 7, 9}, "service " + to})
			}
		}
	}
	direct("node alone", hostNear, hostNear)
	direct("pod to pod, same node", visitor, serverNear)
	service("pod to service, same node", visitor, serverNear)
	direct("node to node", hostNear, hostFar)
	direct("pod to pod, other node", visitor, serverFar)
	service("pod to service, other node", visitor, serverFar)
	return out
}

// measure does one thing after the other: they would disturb each other.
func (l lane) measure(ctx context.Context, d time.Duration) PerfResult {
	r := PerfResult{Path: l.name, From: l.from.Name, To: l.toNamed}
	for i, m := range []struct {
		kind string
		into **probe.Measure
	}{{probe.RoundTrips, &r.RoundTrips}, {probe.Connections, &r.Connections}, {probe.Stream, &r.Stream}} {
		a, err := l.from.Ask(ctx, probe.Request{Kind: m.kind, Host: l.to, Port: l.ports[i], Duration: d, Timeout: 5 * time.Second})
		switch {
		case err != nil:
			r.Errors = append(r.Errors, err.Error())
		case a.Outcome != probe.OK:
			r.Errors = append(r.Errors, m.kind+": "+because(a))
		default:
			*m.into = a.Measure
		}
	}
	return r
}

func printPerf(o *PerfOptions, results []PerfResult) error {
	p50 := func(m *probe.Measure) string {
		if m == nil {
			return "failed"
		}
		return m.P50.Round(100 * time.Nanosecond).String()
	}
	p99 := func(m *probe.Measure) string {
		if m == nil {
			return "failed"
		}
		return m.P99.Round(100 * time.Nanosecond).String()
	}
	rate := func(m *probe.Measure) string {
		if m == nil {
			return "failed"
		}
		return fmt.Sprintf("%.0f", m.PerSecond)
	}
	err := command.Print(o.Streams, o.Output, []command.Column[PerfResult]{
		{Name: "PATH", Value: func(r PerfResult) string { return r.Path }},
		{Name: "RR-P50", Value: func(r PerfResult) string { return p50(r.RoundTrips) }},
		{Name: "RR-P99", Value: func(r PerfResult) string { return p99(r.RoundTrips) }},
		{Name: "RR/S", Value: func(r PerfResult) string { return rate(r.RoundTrips) }},
		{Name: "CRR-P50", Value: func(r PerfResult) string { return p50(r.Connections) }},
		{Name: "CRR-P99", Value: func(r PerfResult) string { return p99(r.Connections) }},
		{Name: "CRR/S", Value: func(r PerfResult) string { return rate(r.Connections) }},
		{Name: "GBIT/S", Value: func(r PerfResult) string {
			if r.Stream == nil {
				return "failed"
			}
			return fmt.Sprintf("%.2f", r.Stream.PerSecond*8/1e9)
		}},
	}, results, nil)
	if o.Output.ForPeople() {
		for _, r := range results {
			for _, text := range r.Errors {
				fmt.Fprintf(o.Err, "%s: %s\n", r.Path, text)
			}
		}
	}
	return err
}
