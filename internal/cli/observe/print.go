// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	flowpb "github.com/stentor-net/stentor/api/flow"
	observerpb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// layouts of --time-format.
var layouts = map[string]string{
	"StampMilli": time.StampMilli, "RFC3339": time.RFC3339, "RFC3339Milli": "2006-01-02T15:04:05.000Z07:00", "RFC3339Micro": "2006-01-02T15:04:05.000000Z07:00",
	"RFC3339Nano": time.RFC3339Nano, "RFC1123Z": time.RFC1123Z, "YearMonthDay": "2006-01-02",
}

// printer writes answers in one of the formats.
type printer struct {
	o      *Options
	layout string
	table  *tabwriter.Writer // of -o table
	begun  bool
}

func newPrinter(o *Options) (*printer, error) {
	layout, ok := layouts[o.timeFormat]
	if !ok {
		return nil, command.Usagef("--time-format %q is unknown: StampMilli, RFC3339, RFC3339Milli, RFC3339Micro, RFC3339Nano, RFC1123Z or YearMonthDay", o.timeFormat)
	}
	p := &printer{o: o, layout: layout}
	if o.Output == command.Table {
		p.table = tabwriter.NewWriter(o.Out, 2, 0, 3, ' ', 0)
	}
	return p, nil
}

// end writes what is still held back.
func (p *printer) end() error {
	if p.table == nil {
		return nil
	}
	return p.table.Flush()
}

// print writes one answer. What is no flow goes to the stream for talk, except
// in formats for programs.
func (p *printer) print(r *observerpb.GetFlowsResponse) error {
	switch p.o.Output {
	case command.JSON:
		if r.GetFlow() != nil {
			return p.json(&observerpb.ExportEvent{NodeName: r.GetNodeName(), Time: r.GetTime(), ResponseTypes: &observerpb.ExportEvent_Flow{Flow: r.GetFlow()}})
		}
		return p.json(r)
	case jsonpb:
		return p.json(r)
	}
	f := r.GetFlow()
	if f == nil {
		return p.news(r)
	}
	var err error
	switch p.o.Output {
	case dict:
		err = p.dict(f)
	case command.Table:
		err = p.row(f)
	default:
		_, err = io.WriteString(p.o.Out, p.compact(f))
	}
	return err
}

func (p *printer) json(m proto.Message) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the flow: %w", err)
	}
	_, err = p.o.Out.Write(append(raw, '\n'))
	return err
}

// news are told to people beside the flows.
func (p *printer) news(r *observerpb.GetFlowsResponse) error {
	switch {
	case r.GetLostEvents() != nil:
		_, err := fmt.Fprintf(p.o.Err, "EVENTS LOST: %s: %d, %s\n", r.GetNodeName(), r.GetLostEvents().GetNumEventsLost(), r.GetLostEvents().GetSource())
		return err
	case r.GetNodeStatus() != nil && !p.o.silent:
		s := r.GetNodeStatus()
		_, err := fmt.Fprintf(p.o.Err, "%s: %s %s\n", s.GetStateChange(), strings.Join(s.GetNodeNames(), ", "), s.GetMessage())
		return err
	}
	return nil
}

// line is a flow in words.
type line struct {
	time, node, source, arrow, destination, kind, verdict, summary string
}

func (p *printer) line(f *flowpb.Flow) line {
	l := line{
		time: f.GetTime().AsTime().Local().Format(p.layout), node: f.GetNodeName(),
		source:      p.side(f.GetIP().GetSource(), f.GetSource(), f.GetSourceService(), f.GetSourceNames(), ports(f, true)),
		destination: p.side(f.GetIP().GetDestination(), f.GetDestination(), f.GetDestinationService(), f.GetDestinationNames(), ports(f, false)),
		arrow:       "->", kind: kind(f), verdict: f.GetVerdict().String(), summary: about(f),
	}
	switch {
	case f.GetIsReply() == nil:
		l.arrow = "<>"
	case f.GetIsReply().GetValue(): // told from the side that opened
		l.source, l.destination, l.arrow = l.destination, l.source, "<-"
	}
	if f.GetAggregate() != nil {
		a := f.GetAggregate()
		l.summary += fmt.Sprintf(" [%d times]", a.GetIngressFlowCount()+a.GetEgressFlowCount()+a.GetUnknownDirectionFlowCount())
	}
	if p.o.policyNames {
		l.summary += policies(f)
	}
	return l
}

func (p *printer) compact(f *flowpb.Flow) string {
	l := p.line(f)
	var b strings.Builder
	b.WriteString(l.time)
	if p.o.nodes {
		b.WriteString(" [" + l.node + "]")
	}
	verdict := l.verdict
	if p.o.Color {
		verdict = colors[f.GetVerdict()] + verdict + "\x1b[0m"
	}
	fmt.Fprintf(&b, ": %s %s %s %s %s (%s)\n", l.source, l.arrow, l.destination, l.kind, verdict, l.summary)
	return b.String()
}

// colors of verdicts on a terminal.
var colors = map[flowpb.Verdict]string{
	flowpb.Verdict_FORWARDED: "\x1b[32m", flowpb.Verdict_REDIRECTED: "\x1b[32m", flowpb.Verdict_DROPPED: "\x1b[31m", flowpb.Verdict_ERROR: "\x1b[31m",
	flowpb.Verdict_AUDIT: "\x1b[33m", flowpb.Verdict_TRACED: "\x1b[33m", flowpb.Verdict_TRANSLATED: "\x1b[33m",
}

func (p *printer) dict(f *flowpb.Flow) error {
	l := p.line(f)
	if p.begun {
		fmt.Fprintln(p.o.Out, "------------")
	}
	p.begun = true
	fields := [][2]string{{"TIMESTAMP", l.time}, {"SOURCE", l.source}, {"DESTINATION", l.destination}, {"TYPE", l.kind}, {"VERDICT", l.verdict}, {"SUMMARY", l.summary}}
	if p.o.nodes {
		fields = append(fields[:1], append([][2]string{{"NODE", l.node}}, fields[1:]...)...)
	}
	for _, x := range fields {
		if _, err := fmt.Fprintf(p.o.Out, "%12s: %s\n", x[0], x[1]); err != nil {
			return err
		}
	}
	return nil
}

func (p *printer) row(f *flowpb.Flow) error {
	l := p.line(f)
	cells := []string{l.time, l.source, l.destination, l.kind, l.verdict, l.summary}
	heads := []string{"TIMESTAMP", "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"}
	if p.o.nodes {
		cells = append([]string{l.time, l.node}, cells[1:]...)
		heads = append([]string{heads[0], "NODE"}, heads[1:]...)
	}
	if !p.begun {
		p.begun = true
		fmt.Fprintln(p.table, strings.Join(heads, "\t"))
	}
	_, err := fmt.Fprintln(p.table, strings.Join(cells, "\t"))
	if err == nil && p.o.follow {
		err = p.table.Flush()
	}
	return err
}

// printFilters shows what the flags mean.
func (o *Options) printFilters(req *observerpb.GetFlowsRequest) error {
	for _, list := range []struct {
		name    string
		filters []*flowpb.FlowFilter
	}{{"allowlist", req.GetWhitelist()}, {"denylist", req.GetBlacklist()}} {
		if len(list.filters) == 0 {
			continue
		}
		fmt.Fprintf(o.Out, "%s:\n", list.name)
		for _, f := range list.filters {
			raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(f)
			if err != nil {
				return fmt.Errorf("encode the filter: %w", err)
			}
			fmt.Fprintf(o.Out, "    - '%s'\n", strings.ReplaceAll(string(raw), "'", "''"))
		}
	}
	return nil
}
