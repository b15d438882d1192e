// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// Verdicts of a check.
const (
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Result of a check.
type Result struct {
	Name     string        `json:"name"`
	About    string        `json:"about"`
	Verdict  string        `json:"verdict"`
	Reason   string        `json:"reason,omitempty"` // why it was skipped
	Notes    []string      `json:"notes,omitempty"`
	Tries    int           `json:"tries"`
	Duration time.Duration `json:"duration"` // nanoseconds
	Failures []string      `json:"failures,omitempty"`
	Flows    []rest.Event  `json:"flows,omitempty"` // what agents dropped meanwhile, of the pods that took part
}

// Report of a run.
type Report struct {
	OK       bool          `json:"ok"`
	Nodes    []string      `json:"nodes"`
	Families []int         `json:"families"`
	Passed   int           `json:"passed"`
	Failed   int           `json:"failed"`
	Skipped  int           `json:"skipped"`
	Duration time.Duration `json:"duration"` // nanoseconds
	Results  []Result      `json:"results"`
}

func (r *Report) add(x Result) {
	r.Results = append(r.Results, x)
	switch x.Verdict {
	case Passed:
		r.Passed++
	case Failed:
		r.Failed++
	case Skipped:
		r.Skipped++
	}
	r.OK = r.Failed == 0 && r.Passed > 0
}

var colors = map[string]string{Passed: command.Green, Failed: command.Red, Skipped: command.Yellow}

// flowsShown bounds what people are shown of one check.
const flowsShown = 8

// print writes a result for people.
func (x Result) print(s command.Streams) {
	line := fmt.Sprintf("%-8s %-30s", x.Verdict, x.Name)
	switch x.Verdict {
	case Skipped:
		line += " " + x.Reason
	default:
		line += fmt.Sprintf(" %5.1fs  %s", x.Duration.Seconds(), strings.Join(x.Notes, ", "))
	}
	line = strings.TrimRight(line, " ")
	fmt.Fprintln(s.Out, s.Paint(colors[x.Verdict], line[:len(x.Verdict)])+line[len(x.Verdict):])
	if x.Verdict != Failed {
		return
	}
	fmt.Fprintf(s.Out, "         wanted: %s\n", x.About)
	for _, f := range x.Failures {
		fmt.Fprintf(s.Out, "         %s\n", f)
	}
	for _, e := range x.Flows[:min(len(x.Flows), flowsShown)] {
		fmt.Fprintf(s.Out, "         flow: %s\n", flowText(e))
	}
	if more := len(x.Flows) - flowsShown; more > 0 {
		fmt.Fprintf(s.Out, "         and %d more: see -o json\n", more)
	}
	if len(x.Flows) == 0 {
		fmt.Fprintln(s.Out, "         no agent told of a drop")
	}
}

func flowText(e rest.Event) string {
	text := fmt.Sprintf("%s dropped %d at %s: %s (%d), %s %s -> %s", e.Node, e.Count, e.Direction, e.ReasonText, e.Reason, e.Protocol, endText(e.Source), endText(e.Dest))
	if e.Dest.Port != 0 {
		text += fmt.Sprintf(" port %d", e.Dest.Port)
	}
	if len(e.Policies) > 0 {
		text += ", by " + strings.Join(e.Policies, ", ")
	}
	return text
}

func endText(p rest.EventParty) string {
	name := p.Pod
	if name == "" {
		name = p.IP
	}
	return fmt.Sprintf("%s [identity %d]", name, p.Identity)
}

func (r *Report) print(s command.Streams) {
	verdict, color := "ok", command.Green
	if !r.OK {
		verdict, color = "NOT OK", command.Red
	}
	fmt.Fprintf(s.Out, "\n%s   %d passed, %d failed, %d skipped in %.1fs\n", s.Paint(color, verdict), r.Passed, r.Failed, r.Skipped, r.Duration.Seconds())
}

// writeJUnit writes the report as CI systems read it.
func (r *Report) writeJUnit(w io.Writer) error {
	type text struct {
		Message string `xml:"message,attr,omitempty"`
		Content string `xml:",chardata"`
	}
	type testCase struct {
		Name    string  `xml:"name,attr"`
		Class   string  `xml:"classname,attr"`
		Time    float64 `xml:"time,attr"`
		Failure *text   `xml:"failure,omitempty"`
		Skipped *text   `xml:"skipped,omitempty"`
	}
	type testSuite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     float64    `xml:"time,attr"`
		Cases    []testCase `xml:"testcase"`
	}
	suite := testSuite{Name: "connectivity", Tests: len(r.Results), Failures: r.Failed, Skipped: r.Skipped, Time: r.Duration.Seconds()}
	for _, x := range r.Results {
		c := testCase{Name: x.Name, Class: "connectivity", Time: x.Duration.Seconds()}
		switch x.Verdict {
		case Skipped:
			c.Skipped = &text{Message: x.Reason}
		case Failed:
			lines := x.Failures
			for _, e := range x.Flows {
				lines = append(lines, "flow: "+flowText(e))
			}
			c.Failure = &text{Message: x.About, Content: strings.Join(lines, "\n")}
		}
		suite.Cases = append(suite.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
