// SPDX-License-Identifier: Apache-2.0

// Package observe holds the command that shows flows, with the flags and outputs
// that users of the hubble client know.
package observe

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	observerpb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// Options of `observe`.
type Options struct {
	command.Streams
	connect func(context.Context) ([]server, error)
	now     func() time.Time

	last, first  uint64
	all, follow  bool
	since, until string
	filters      filterFlags
	rawFilters   bool
	masks        []string

	Output        command.Output
	timeFormat    string
	translate     bool // names instead of addresses
	identities    bool
	nodes         bool
	policyNames   bool
	silent        bool
	serverAddress string
	tls           tlsFlags
}

// Formats of the output.
const (
	compact = "compact"
	dict    = "dict"
	jsonpb  = "jsonpb"
)

// defaultLast is how many flows are shown if nothing says which.
const defaultLast = 20

// NewCmd makes `observe`.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	o := &Options{Streams: f.Streams, now: time.Now}
	o.connect = func(ctx context.Context) ([]server, error) { return connect(ctx, f, o) }
	cmd := &cobra.Command{
		Use: "observe", Args: command.NoArgs,
		Short: "Show flows: who speaks with whom, and what policy said",
		Long: `Show flows of this node or, from outside, of all nodes; with --server those of a
relay.

Values of one flag are alternatives, different flags must all hold. After --not
the next flag leaves flows out.`,
		Example: `  stentor observe
  stentor observe --pod default/xwing --verdict DROPPED --follow
  stentor observe --since 5m --to-port 80 --protocol tcp -o json
  stentor observe --from-label app=frontend --not --to-namespace kube-system`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return o.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&o.last, "last", 0, "the newest so many flows (20 if nothing else says which)")
	flags.Uint64Var(&o.first, "first", 0, "the oldest so many flows")
	flags.BoolVar(&o.all, "all", false, "all flows there are")
	flags.BoolVarP(&o.follow, "follow", "f", false, "go on with what is still to come")
	flags.StringVar(&o.since, "since", "", "flows since then: 5m, or a time (RFC 3339)")
	flags.StringVar(&o.until, "until", "", "flows until then, likewise")
	flags.BoolVar(&o.rawFilters, "print-raw-filters", false, "show the filters of the request and end")
	flags.StringSliceVar(&o.masks, "field-mask", nil, "only these fields, such as source.pod_name (with -o json)")
	flags.StringVar(&o.timeFormat, "time-format", "StampMilli", "StampMilli, RFC3339, RFC3339Milli, RFC3339Micro, RFC3339Nano, RFC1123Z or YearMonthDay")
	flags.BoolVar(&o.translate, "ip-translation", true, "show names instead of addresses")
	flags.BoolVar(&o.identities, "print-identities", true, "show identities")
	flags.BoolVar(&o.nodes, "print-node-name", false, "show the node")
	flags.BoolVar(&o.policyNames, "print-policy-names", false, "show the policies that allowed or denied")
	flags.BoolVarP(&o.silent, "silent-errors", "s", false, "do not tell of nodes that cannot be reached")
	flags.StringVar(&o.serverAddress, "server", "", "host:port or unix:///path of a relay or observer")
	o.tls.addTo(flags)
	o.filters.addTo(cmd)
	command.Enum(cmd, (*string)(&o.Output), "output", "o", []string{compact, dict, command.Table, command.JSON, jsonpb}, "format of the output")
	return cmd
}

// request says what the flags mean.
func (o *Options) request() (*observerpb.GetFlowsRequest, error) {
	r := &observerpb.GetFlowsRequest{Follow: o.follow}
	chosen := 0
	for _, set := range []bool{o.all, o.first > 0, o.last > 0} {
		if set {
			chosen++
		}
	}
	switch {
	case chosen > 1:
		return nil, command.Usagef("--all, --first and --last exclude each other")
	case o.first > 0 && o.follow:
		return nil, command.Usagef("--first and --follow exclude each other")
	}
	var err error
	if r.Since, err = o.moment("since", o.since); err != nil {
		return nil, err
	}
	if r.Until, err = o.moment("until", o.until); err != nil {
		return nil, err
	}
	switch {
	case o.first > 0:
		r.Number, r.First = o.first, true
	case o.last > 0:
		r.Number = o.last
	case !o.all && !o.follow && o.since == "" && o.until == "":
		r.Number = defaultLast
	case o.all && o.follow:
		r.Since = &timestamppb.Timestamp{}
	}
	if r.Whitelist, r.Blacklist, err = o.filters.compile(); err != nil {
		return nil, err
	}
	if len(o.masks) > 0 {
		if o.Output != command.JSON && o.Output != jsonpb {
			return nil, command.Usagef("--field-mask needs -o json: other formats show what they need")
		}
		r.FieldMask = &fieldmaskpb.FieldMask{Paths: o.masks}
	}
	return r, nil
}

// moment reads a duration back from now, or a time.
func (o *Options) moment(flag, v string) (*timestamppb.Timestamp, error) {
	if v == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(v); err == nil {
		return timestamppb.New(o.now().Add(-d)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly, "15:04:05", "15:04"} {
		t, err := time.ParseInLocation(layout, v, time.Local)
		if err != nil {
			continue
		}
		if t.Year() == 0 { // a time of today
			y, m, d := o.now().Date()
			t = time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, time.Local)
		}
		return timestamppb.New(t), nil
	}
	return nil, command.Usagef("--%s %q is neither a duration such as 5m nor a time such as 2006-01-02T15:04:05Z", flag, v)
}

func (o *Options) run(ctx context.Context) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	if o.rawFilters {
		return o.printFilters(req)
	}
	p, err := newPrinter(o)
	if err != nil {
		return err
	}
	servers, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range servers {
			s.conn.Close()
		}
	}()
	m := &merge{servers: servers, request: req, failed: func(name string, err error) {
		if !o.silent {
			fmt.Fprintf(o.Err, "%s: %v\n", name, err)
		}
	}}
	err = m.run(ctx, p.print)
	if ctx.Err() != nil && o.follow {
		err = nil // interrupted
	}
	return errors.Join(err, p.end())
}
