// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"io"
	"strings"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
	tracing "github.com/stentor-net/stentor/internal/policy/trace"
)

func conclude(r *rest.TraceResult) {
	if r.Egress != nil || r.Ingress != nil {
		tracing.Conclude(r)
	}
}

// printTrace tells a person what was decided, and why.
func printTrace(s command.Streams, r rest.TraceResult) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s  %s\n", endName(r.Source), endName(r.Destination), portName(r))
	for _, o := range r.Objects {
		if !o.Valid {
			fmt.Fprintf(&b, "%s %s: %s\n", s.Paint(command.Red, "not valid:"), o.Object, o.Reason)
		} else if o.Reason != "" {
			fmt.Fprintf(&b, "%s %s\n", o.Object, o.Reason)
		}
	}
	for _, side := range []struct {
		name string
		s    *rest.TraceSide
		own  rest.TraceEnd
	}{{"EGRESS", r.Egress, r.Source}, {"INGRESS", r.Ingress, r.Destination}} {
		if side.s != nil {
			printSide(&b, s, side.name, side.s, side.own)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "\nNote: %s\n", n)
	}
	fmt.Fprintf(&b, "\nFinal verdict: %s\n", paintVerdict(s, r.Verdict, strings.ToUpper(r.Verdict)))
	_, err := io.WriteString(s.Out, b.String())
	return err
}

func endName(e rest.TraceEnd) string {
	name := e.Name
	if e.IP != "" && e.IP != e.Name {
		name += " (" + e.IP + ")"
	}
	if e.Identity != 0 {
		name += fmt.Sprintf(" [%d]", e.Identity)
	}
	return name
}

func portName(r rest.TraceResult) string {
	switch {
	case r.Port < 0:
		return "any port"
	case strings.HasPrefix(r.Protocol, "ICMP"):
		return fmt.Sprintf("%s type %d", r.Protocol, r.Port)
	}
	return fmt.Sprintf("%d/%s", r.Port, r.Protocol)
}

func paintVerdict(s command.Streams, verdict, text string) string {
	color := map[string]string{rest.TraceAllowed: command.Green, rest.TraceDenied: command.Red, rest.TraceRedirected: command.Yellow}[verdict]
	return s.Paint(color, text)
}

func printSide(b *strings.Builder, s command.Streams, name string, side *rest.TraceSide, own rest.TraceEnd) {
	at := ""
	if side.Judged != "" {
		at = "  (node " + side.Judged + ")"
		if side.Elsewhere {
			at = fmt.Sprintf("  (as node %s sees it; node %s decides)", side.Judged, own.Node)
		}
	}
	fmt.Fprintf(b, "\n%-8s %s%s\n", name, paintVerdict(s, side.Verdict, side.Verdict), s.Paint(command.Dim, at))
	switch {
	case !side.Enforcing:
		fmt.Fprintf(b, "  no policy limits %s of %s\n", strings.ToLower(name), own.Name)
	case len(side.Deciding) > 0:
		printRules(b, "by", side.Deciding)
	case side.Verdict == rest.TraceDenied && len(side.Default) > 0:
		printRules(b, "no rule allows it, and these deny by default", side.Default)
	default:
		fmt.Fprintf(b, "  %s\n", side.Why)
	}
	if len(side.Matching) > len(side.Deciding) {
		printRules(b, "all rules that match", side.Matching)
	}
	printRules(b, "nearest rules that allow", side.Nearest)
}

func printRules(b *strings.Builder, heading string, rules []rest.RuleRef) {
	if len(rules) == 0 {
		return
	}
	fmt.Fprintf(b, "  %s:\n", heading)
	for _, r := range rules {
		fmt.Fprintf(b, "    %s\n", ruleName(r))
		for _, m := range r.Missing {
			fmt.Fprintf(b, "      but %s\n", m)
		}
	}
}

// ruleName names a rule with its place in the object.
func ruleName(r rest.RuleRef) string {
	name := r.Name
	if r.Namespace != "" {
		name = r.Namespace + "/" + r.Name
	}
	text := strings.TrimSpace(r.Kind + " " + name + " " + r.Path)
	if r.Verdict != "" {
		text += " (" + r.Verdict
		if r.Tier != "" && r.Tier != "normal" {
			text += ", tier " + r.Tier
		}
		text += ")"
	}
	return text
}
