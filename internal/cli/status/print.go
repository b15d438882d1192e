// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// print writes the report for people.
func (r *Report) print(s command.Streams, verbose bool) error {
	p := &page{s: s}
	if len(r.Components) == 0 && len(r.Nodes) == 1 && r.Nodes[0].Pod == "" {
		p.node(r.Nodes[0])
	} else {
		p.cluster(r)
	}
	if verbose {
		p.ways(r.Nodes)
	}
	p.list(command.Red, "Missing", r.Problems)
	p.list(command.Yellow, "Warnings", r.Warnings)
	_, err := fmt.Fprint(s.Out, p.b.String())
	return err
}

type page struct {
	s command.Streams
	b strings.Builder
}

func (p *page) line(name, color, text string) {
	fmt.Fprintf(&p.b, "%-17s%s\n", name+":", p.s.Paint(color, text))
}

// node is one agent, check by check.
func (p *page) node(n Node) {
	own := n.own()
	color, state := command.Green, "Ok"
	if !n.Ready {
		color, state = command.Red, "not ready"
	}
	p.line("Stentor", color, state+"   "+join(own.Version, "on "+n.Name, "up "+short(own.Uptime)))
	for _, c := range own.Checks {
		text := c.State
		if c.Msg != "" {
			text += "   " + c.Msg
		}
		p.line(title(c.Name), colorOf(c.State), text)
	}
	p.pods(own.Pods)
	p.line("States", "", states(own.Endpoints))
	p.line("Policies", "", fmt.Sprintf("%d, revision %d", own.Policies, own.PolicyRevision))
	p.reach(n)
	if len(own.Nodes) == 0 {
		return
	}
	p.b.WriteByte('\n')
	var rows [][]string
	for _, other := range own.Nodes {
		name := other.Name
		if other.Local {
			name += "*"
		}
		rows = append(rows, []string{name, probe(other.Node), probe(other.Endpoint), strings.Join(other.PodCIDRs, ",")})
	}
	_ = command.PrintCells(&p.b, []string{"NODE", "BY-NODE", "BY-ENDPOINT", "PODS"}, rows) // a builder takes all
}

// cluster is all agents, one line each.
func (p *page) cluster(r *Report) {
	for _, c := range r.Components {
		color := command.Green
		if c.Ready < c.Desired {
			color = command.Red
		}
		p.line(title(c.Name), color, fmt.Sprintf("%d/%d ready   %s %s", c.Ready, c.Desired, c.Kind, c.Object))
	}
	p.pods(r.Pods)
	if len(r.Nodes) == 0 {
		return
	}
	p.b.WriteByte('\n')
	var rows [][]string
	for _, n := range r.Nodes {
		state := "ready"
		if n.Error != "" {
			state = "away"
		} else if !n.Ready {
			state = "not-ready"
		}
		own := n.own()
		rows = append(rows, []string{n.Name, n.Pod, state, fraction(own.Pods.Managed, own.Pods.Total),
			states(own.Endpoints), fraction(n.reach(nodeProbe)), fraction(n.reach(endpointProbe)), own.Version})
	}
	_ = command.PrintCells(&p.b, []string{"NODE", "AGENT", "STATE", "PODS", "ENDPOINTS", "NODES", "HEALTH", "VERSION"}, rows)
}

func (p *page) pods(pods rest.Pods) {
	color := command.Green
	if pods.Managed < pods.Total {
		color = command.Red
	}
	text := fmt.Sprintf("%d/%d managed", pods.Managed, pods.Total)
	if pods.HostNetwork > 0 {
		text += fmt.Sprintf("   and %d in the network of their node", pods.HostNetwork)
	}
	p.line("Pods", color, text)
}

func (p *page) reach(n Node) {
	a, b := n.reach(nodeProbe)
	c, d := n.reach(endpointProbe)
	if b+d == 0 {
		p.line("Reach", "", "no other node")
		return
	}
	color := command.Green
	if a < b || c < d {
		color = command.Red
	}
	p.line("Reach", color, fmt.Sprintf("%d/%d nodes   %d/%d endpoints", a, b, c, d))
}

// ways lists how each node reaches the others, by all their addresses.
func (p *page) ways(nodes []Node) {
	var rows [][]string
	for _, from := range nodes {
		for _, to := range from.own().Nodes {
			direct, endpoint := to.Probes()
			for _, x := range direct {
				rows = append(rows, wayCells(from.Name, to.Name, "node", x))
			}
			for _, x := range endpoint {
				rows = append(rows, wayCells(from.Name, to.Name, "pod network", x))
			}
		}
	}
	if len(rows) == 0 {
		return
	}
	p.b.WriteByte('\n')
	_ = command.PrintCells(&p.b, []string{"FROM", "TO", "BY", "ADDRESS", "TCP", "PING"}, rows) // a builder takes all
}

func wayCells(from, to, by string, x rest.Probe) []string {
	ping := ""
	if x.Ping != nil {
		ping = outcome(x.Ping.OK, x.Ping.Latency, x.Ping.Error)
	}
	return []string{from, to, by, x.IP, outcome(x.OK, x.Latency, x.Error), ping}
}

func outcome(ok bool, latency int64, text string) string {
	switch {
	case ok:
		return time.Duration(latency).Round(10 * time.Microsecond).String()
	case text == "":
		return "not reached"
	}
	return text
}

func (p *page) list(color, name string, problems []Problem) {
	if len(problems) == 0 {
		return
	}
	fmt.Fprintf(&p.b, "\n%s\n", p.s.Paint(color, name+":"))
	for _, x := range problems {
		fmt.Fprintf(&p.b, "  %s: %s\n", x.Where, x.Missing)
		if x.Why != "" {
			fmt.Fprintf(&p.b, "    %s\n", x.Why)
		}
	}
}

func colorOf(state string) string {
	switch state {
	case rest.StateOk:
		return command.Green
	case rest.StateWarning:
		return command.Yellow
	case rest.StateFailure:
		return command.Red
	}
	return command.Dim
}

func probe(p rest.Probe) string {
	if p.IP == "" {
		return ""
	}
	return p.IP + " " + outcome(p.OK, p.Latency, p.Error)
}

func states(endpoints map[string]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(endpoints)) {
		if endpoints[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", endpoints[state], state))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func fraction(a, b int) string { return fmt.Sprintf("%d/%d", a, b) }

// names that are not written as words are.
var names = map[string]string{"cni": "CNI", "ipam": "IPAM", "ciliumendpoints": "CiliumEndpoints"}

func title(name string) string {
	if written, ok := names[name]; ok || name == "" {
		return written
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

func short(uptime string) string {
	d, err := time.ParseDuration(uptime)
	if err != nil {
		return uptime
	}
	return d.Round(time.Second).String()
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool {
		return s == "" || strings.HasSuffix(s, " ")
	}), ", ")
}
