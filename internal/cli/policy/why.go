// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// WhyOptions of `policy why`.
type WhyOptions struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Args   []string
	Output command.Output

	agents []*client.Client
}

// NewCmdWhy makes `policy why`.
func NewCmdWhy(f *command.Factory, runF func(context.Context, *WhyOptions) error) *cobra.Command {
	o := &WhyOptions{Streams: f.Streams, Agents: f.Agents}
	cmd := &cobra.Command{
		Use: "why [EVENT | SOURCE DESTINATION:PORT[/PROTOCOL]]", Args: eventOrPair,
		Short: "Say why policy decided as it did about a packet or a pair of pods",
		Long: `Say why policy decided as it did about a packet or a pair of pods.

EVENT is what ` + "`stentor monitor`" + ` printed: a line of it, or an object of
` + "`stentor monitor -o json`" + `. Without arguments events are read from standard
input, one per line:

  stentor monitor --type drop --count 1 -o json | stentor policy why

A JSON event is explained by the policy that was in force
when its packet was judged, for a minute after a change; a printed line by the
policy of now.

SOURCE and DESTINATION are NAMESPACE/POD or addresses: the same question as
` + "`stentor policy trace`" + `.`,
		Example: `  stentor policy why default/xwing default/deathstar:80
  stentor policy why default/xwing 10.96.0.10:53/UDP`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Args = args
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return why(cmd.Context(), o)
		},
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		offer := command.CompleteFlag(func(ctx context.Context) ([]string, error) { return podNames(ctx, f) })
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return offer(cmd, args, word)
	}
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func eventOrPair(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return command.Usagef("%s takes an event, or a source and a destination, got %d arguments", cmd.CommandPath(), len(args))
	}
	return nil
}

func why(ctx context.Context, o *WhyOptions) error {
	var q rest.TraceRequest
	var err error
	if len(o.Args) == 2 {
		if q, err = pairOf(o.Args[0], o.Args[1]); err != nil {
			return err
		}
	}
	if o.agents, err = o.Agents(ctx); err != nil {
		return err
	}
	switch {
	case len(o.Args) == 2:
		return o.pair(ctx, q)
	case len(o.Args) == 1 && o.Args[0] != "-":
		return o.event(ctx, o.Args[0])
	}
	return o.stream(ctx)
}

func (o *WhyOptions) pair(ctx context.Context, q rest.TraceRequest) error {
	t := &TraceOptions{Streams: o.Streams, Agents: func(context.Context) ([]*client.Client, error) { return o.agents, nil }}
	r, err := ask(ctx, t, nil, q)
	if err != nil {
		return err
	}
	return o.print(r)
}

// stream explains events as they come. One that cannot be explained is
// reported, and the others are still explained.
func (o *WhyOptions) stream(ctx context.Context) error {
	in := bufio.NewScanner(o.In)
	in.Buffer(nil, 1<<20)
	seen, failed := 0, false
	for in.Scan() {
		line := strings.TrimSpace(in.Text())
		if line == "" {
			continue
		}
		seen++
		if err := o.event(ctx, line); err != nil {
			fmt.Fprintln(o.Err, err)
			failed = true
		}
	}
	switch {
	case in.Err() != nil:
		return fmt.Errorf("read events: %w", in.Err())
	case seen == 0:
		return command.Usagef("no event: give one as an argument or on standard input")
	case failed:
		return command.ErrSilent
	}
	return nil
}

// event explains one event, as an object or as a printed line.
func (o *WhyOptions) event(ctx context.Context, text string) error {
	if !strings.HasPrefix(text, "{") {
		q, err := lineOf(text)
		if err != nil {
			return err
		}
		return o.pair(ctx, q)
	}
	var e rest.Event
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return fmt.Errorf("the event is not one of `monitor -o json`: %w", err)
	}
	agent, err := o.agentOf(e.Node)
	if err != nil {
		return err
	}
	var r rest.TraceResult
	if err := agent.Post(ctx, rest.PathPolicyWhy, e, &r); err != nil {
		return err
	}
	return o.print(r)
}

func (o *WhyOptions) agentOf(node string) (*client.Client, error) {
	if i := slices.IndexFunc(o.agents, func(a *client.Client) bool { return a.Node() == node }); i >= 0 {
		return o.agents[i], nil
	}
	if len(o.agents) == 1 && o.agents[0].Node() == "" {
		return o.agents[0], nil // on a node, by its socket: it says itself if it is another one
	}
	return nil, fmt.Errorf("the event is of node %s, whose agent cannot be asked", node)
}

// print writes one answer; several in a stream are objects one after the other.
func (o *WhyOptions) print(r rest.TraceResult) error {
	if o.Output.ForPeople() {
		return printTrace(o.Streams, r)
	}
	if o.Output == command.YAML {
		if _, err := io.WriteString(o.Out, "---\n"); err != nil {
			return err
		}
	}
	return command.PrintObject(o.Streams, o.Output, r)
}

// pairOf reads SOURCE and DESTINATION:PORT[/PROTOCOL].
func pairOf(source, destination string) (rest.TraceRequest, error) {
	q := rest.TraceRequest{}
	target, protocol := destination, ""
	colon := strings.LastIndexByte(target, ':')
	if slash := strings.LastIndexByte(target, '/'); slash > colon && colon >= 0 {
		target, protocol = target[:slash], target[slash+1:]
	}
	if a, err := netip.ParseAddrPort(target); err == nil {
		q.Destination.IP, q.Port, q.Protocol = a.Addr().String(), int(a.Port()), protocol
	} else {
		name, port, found := strings.Cut(target, ":")
		n, err := strconv.ParseUint(port, 10, 16)
		if !found || err != nil || name == "" {
			return q, command.Usagef("destination %q is not POD:PORT or ADDRESS:PORT", destination)
		}
		q.Destination.Pod, q.Port, q.Protocol = name, int(n), protocol
	}
	if a, err := netip.ParseAddr(source); err == nil {
		q.Source.IP = a.String()
	} else {
		q.Source.Pod = strings.TrimSuffix(source, "/")
	}
	return q, nil
}

// ends of a printed event: "default/a:4711 [1234] -> 10.0.0.1:80 (world) [2]  TCP SYN".
var printed = regexp.MustCompile(`(\S+)(?: \(([^)]+)\))?(?: \[\d+\])? -> (\S+)(?: \(([^)]+)\))?(?: \[\d+\])?  (TCP|UDP|SCTP|ICMPv4|ICMPv6|\d+)(?: (\d+)/\d+)?(?: \S+)??( reply)?(?:  |$)`)

// lineOf reads a line that monitor printed for people.
func lineOf(line string) (rest.TraceRequest, error) {
	m := printed.FindStringSubmatch(line)
	if m == nil {
		return rest.TraceRequest{}, fmt.Errorf("this is no line of `stentor monitor`: %q", line)
	}
	source, destination, protocol, icmp := m[1], m[3], m[5], m[6]
	if m[7] != "" {
		source, destination = destination, source
	}
	q := rest.TraceRequest{Protocol: protocol}
	q.Source, _ = partyOf(source)
	q.Destination, q.Port = partyOf(destination)
	if icmp != "" {
		q.Port, _ = strconv.Atoi(icmp)
	}
	return q, nil
}

func partyOf(text string) (rest.TraceParty, int) {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return rest.TraceParty{IP: a.Addr().String()}, int(a.Port())
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return rest.TraceParty{IP: a.String()}, 0
	}
	name, port, _ := strings.Cut(text, ":")
	n, _ := strconv.Atoi(port)
	return rest.TraceParty{Pod: name}, n
}
