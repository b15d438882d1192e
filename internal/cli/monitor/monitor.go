// SPDX-License-Identifier: Apache-2.0

// Package monitor holds the command that follows packets.
package monitor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// Options of `monitor`.
type Options struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Types     []string
	From      []string
	To        []string
	Related   []string
	Endpoints []string
	Ports     []string
	Protocols []string
	Verdicts  []string
	Count     int
	Verbose   bool
	Output    command.Output
}

// types of events, as people may write them.
var types = map[string]string{
	"drop": rest.EventDrop, "policy-verdict": rest.EventVerdict, "verdict": rest.EventVerdict, "trace": rest.EventTrace, "l7": rest.EventL7,
}

// NewCmd makes `monitor`.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	o := &Options{Streams: f.Streams, Agents: f.Agents}
	cmd := &cobra.Command{
		Use: "monitor", Args: command.NoArgs,
		Short: "Follow drops, policy verdicts, requests and traces as they happen",
		Long: `Follow drops, policy verdicts, requests under L7 rules and traces as they happen,
on this node or, from outside, on all nodes.

Values of one flag are alternatives; different flags must all hold. An end of a
packet is an endpoint's number, namespace/pod, an address, a prefix or
identity:NUMBER.`,
		Example: `  stentor monitor
  stentor monitor --type drop --to default/deathstar
  stentor monitor --related-to 10.0.1.7 --port 80 -v
  stentor monitor --type l7 --verdict deny
  stentor monitor --type verdict --count 10 -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVarP(&o.Types, "type", "t", nil, "events to show: drop, verdict, trace, l7")
	flags.StringSliceVar(&o.From, "from", nil, "source of the packet")
	flags.StringSliceVar(&o.To, "to", nil, "destination of the packet")
	flags.StringSliceVar(&o.Related, "related-to", nil, "source or destination of the packet")
	flags.StringSliceVar(&o.Endpoints, "endpoint", nil, "endpoint that the packet was judged for")
	flags.StringSliceVar(&o.Ports, "port", nil, "port of either end")
	flags.StringSliceVar(&o.Protocols, "protocol", nil, "protocol: TCP, UDP, SCTP, ICMP, ICMPv4, ICMPv6")
	flags.StringSliceVar(&o.Verdicts, "verdict", nil, "verdict: allow, deny, redirect, audit")
	flags.IntVar(&o.Count, "count", 0, "end after so many events; 0: follow until interrupted")
	flags.BoolVarP(&o.Verbose, "verbose", "v", false, "show labels, identities and sizes")
	command.Enum(cmd, (*string)(&o.Output), "output", "o", []string{command.Table, command.JSON}, "format of the output")
	_ = cmd.RegisterFlagCompletionFunc("verdict", cobra.FixedCompletions(verdicts, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"drop", "verdict", "trace", "l7"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (o *Options) query() url.Values {
	q := url.Values{}
	for key, values := range map[string][]string{
		rest.FilterType: o.Types, rest.FilterFrom: o.From, rest.FilterTo: o.To, rest.FilterRelated: o.Related,
		rest.FilterEndpoint: o.Endpoints, rest.FilterPort: o.Ports, rest.FilterProtocol: o.Protocols, rest.FilterVerdict: o.Verdicts,
	} {
		if len(values) > 0 {
			q[key] = values
		}
	}
	return q
}

// run follows all agents at once. An agent that goes away is reported, the
// others go on; the command fails when none is left.
func run(ctx context.Context, o *Options) error {
	agents, err := o.Agents(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &printer{o: o, many: len(agents) > 1, done: cancel}
	var wg sync.WaitGroup
	errs := make([]error, len(agents))
	for i, a := range agents {
		wg.Go(func() {
			errs[i] = follow(ctx, a, o.query(), p)
			if errs[i] != nil && ctx.Err() == nil && p.many {
				fmt.Fprintf(o.Err, "node %s: %v\n", a.Node(), errs[i])
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return p.failure() // interrupted, or all events seen
	}
	return errors.Join(append(errs, p.failure())...)
}

func follow(ctx context.Context, a *client.Client, query url.Values, p *printer) error {
	body, err := a.Stream(ctx, rest.PathMonitor, query)
	if err != nil {
		return err
	}
	defer body.Close()
	r := bufio.NewReaderSize(body, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 1 && !p.print(a.Node(), line) {
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("the agent ended the stream")
		case err != nil:
			return err
		}
	}
}

// printer writes events of all agents, one line each. mu guards what follows it.
type printer struct {
	o    *Options
	many bool
	done func()

	mu   sync.Mutex
	seen int
	err  error
}

// print writes one event; it returns false when there is nothing more to do.
func (p *printer) print(node string, line []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || p.o.Count > 0 && p.seen >= p.o.Count {
		return false
	}
	if p.o.Output == command.JSON {
		_, p.err = p.o.Out.Write(line)
	} else {
		var e rest.Event
		if p.err = json.Unmarshal(line, &e); p.err == nil {
			if e.Node == "" {
				e.Node = node
			}
			_, p.err = io.WriteString(p.o.Out, p.o.format(e, p.many))
		}
	}
	p.seen++
	if p.err != nil || p.o.Count > 0 && p.seen >= p.o.Count {
		p.done()
		return false
	}
	return true
}

func (p *printer) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
