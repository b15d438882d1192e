// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"strings"
)

// Colours of what is printed, as SGR codes.
const (
	bold  = "1"
	red   = "31"
	green = "32"
)

func (d *demo) paint(colour, text string) string {
	if !d.Colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// Widths of the table's columns.
const (
	wFrom = 22
	wTo   = 24
	wSeen = 15
)

// table prints what was seen; it says whether all of it was expected.
func (d *demo) table(before, after map[cell]string) bool {
	seen := wSeen * len(d.families())
	fmt.Fprintf(d.Print, "\nPOST deathstar/v1/request-landing\n\n%s\n",
		d.paint(bold, fmt.Sprintf("%-*s%-*s%-*s%-*s%s", wFrom, "FROM", wTo, "TO", seen, "WITHOUT POLICY", seen, "WITH RULE1", "EXPECTED")))
	columns := strings.Repeat(" ", wFrom+wTo)
	for range 2 {
		for _, f := range d.families() {
			columns += fmt.Sprintf("%-*s", wSeen, []string{"IPv4", "IPv6"}[f])
		}
	}
	fmt.Fprintln(d.Print, strings.TrimRight(columns, " "))
	wrong := 0
	for _, s := range d.ships {
		for w := range ways {
			wrong += d.row(s, w, before, after)
		}
	}
	total := len(before) + len(after)
	if wrong > 0 {
		fmt.Fprintf(d.Print, "\n%s\n", d.paint(red, fmt.Sprintf("%d of %d accesses are not as expected.", wrong, total)))
		return false
	}
	fmt.Fprintf(d.Print, "\n%s\n", d.paint(green, fmt.Sprintf("All %d accesses are as expected.", total)))
	return true
}

// row prints the accesses of one ship by one way; it counts the wrong ones.
func (d *demo) row(s ship, w way, before, after map[cell]string) (wrong int) {
	with := dropped
	if s.empire {
		with = landed
	}
	line := fmt.Sprintf("%-*s%-*s", wFrom, s.name+" ("+s.node+")", wTo, wayNames[w])
	for _, phase := range []struct {
		seen map[cell]string
		want string
	}{{before, landed}, {after, with}} {
		for _, f := range d.families() {
			got := phase.seen[cell{s.name, w, f}]
			colour := green
			if got != phase.want {
				colour = red
				wrong++
			}
			line += d.paint(colour, fmt.Sprintf("%-*s", wSeen, got))
		}
	}
	mark := d.paint(green, "ok")
	if wrong > 0 {
		mark = d.paint(red, "DIFFERS")
	}
	fmt.Fprintf(d.Print, "%s%-21s%s\n", line, landed+", then "+with, mark)
	return wrong
}

func (d *demo) printDrop(e *dropEvent, err error) {
	command := strings.Join(append([]string{"stentor"}, dropArgs...), " ")
	fmt.Fprintf(d.Print, "\n$ %s\n", command)
	if err != nil {
		fmt.Fprintf(d.Print, "%s\n", d.paint(red, fmt.Sprintf("no drop was seen: %v", err)))
		return
	}
	by := ""
	if len(e.Policies) > 0 {
		by = " The pod's policies: " + strings.Join(e.Policies, ", ") + "."
	}
	fmt.Fprintf(d.Print, "%s\n\nOn %s a %s packet from %s (identity %d) to %s (identity %d) was dropped: %s, reason %d.%s\n",
		e.text, e.Node, e.Protocol, party(e.Source), e.Source.Identity, party(e.Dest), e.Dest.Identity,
		d.paint(bold, e.ReasonText), e.Reason, by)
}

func party(p eventParty) string {
	if p.Pod != "" {
		return fmt.Sprintf("%s:%d", p.Pod, p.Port)
	}
	return fmt.Sprintf("%s:%d", p.IP, p.Port)
}

// printNext tells how to go on by hand.
func (d *demo) printNext() {
	name := ""
	if d.Plan.Name != "stentor" {
		name = " --name " + d.Plan.Name
	}
	fmt.Fprintf(d.Print, `
The cluster goes on running. To look around:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get pods,cep,cnp -o wide
  kubectl exec tiefighter -- curl -s -XPOST deathstar/v1/request-landing
  kubectl exec tiefighter -- curl -s -XPUT deathstar/v1/exhaust-port
  kubectl exec xwing -- curl -s -m2 -XPOST deathstar/v1/request-landing
  stentor status
  stentor endpoint list
  stentor monitor --type drop,l7
  stentor observe --protocol http
  stentor lab exec%s node1 -- bash

To remove it: stentor lab down%[3]s
`, d.Plan.Kubeconfig(), d.Bin, name)
}
