// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// format writes an event as one line, with more below it when verbose.
func (o *Options) format(e rest.Event, many bool) string {
	if e.Type == rest.EventLost {
		return o.Paint(command.Yellow, fmt.Sprintf("%s  %d events lost\n", clock(e.Time), e.Count))
	}
	parts := []string{clock(e.Time)}
	if many || o.Verbose {
		parts = append(parts, e.Node)
	}
	parts = append(parts, o.what(e))
	if e.Direction != "" {
		parts = append(parts, e.Direction)
	}
	parts = append(parts, o.party(e.Source)+" -> "+o.party(e.Dest))
	if e.L7 != nil {
		parts = append(parts, request(e))
	} else {
		parts = append(parts, packet(e))
	}
	if e.Point != "" {
		parts = append(parts, "at "+e.Point)
	}
	if e.Count > 1 {
		parts = append(parts, fmt.Sprintf("x%d", e.Count))
	}
	if len(e.Policies) > 0 {
		parts = append(parts, "policies "+strings.Join(e.Policies, ","))
	}
	line := strings.Join(parts, "  ") + "\n"
	if !o.Verbose {
		return line
	}
	detail := func(name string, p rest.EventParty) string {
		return fmt.Sprintf("    %-12s %s  identity %d  %s\n", name, address(p), p.Identity, strings.Join(p.Labels, " "))
	}
	line += detail("source", e.Source) + detail("destination", e.Dest)
	if e.Endpoint != 0 || e.Bytes != 0 {
		line += fmt.Sprintf("    endpoint %d  %d bytes\n", e.Endpoint, e.Bytes)
	}
	return line
}

func (o *Options) what(e rest.Event) string {
	switch e.Type {
	case rest.EventDrop:
		return o.Paint(command.Red, fmt.Sprintf("DROP %s (%d)", e.ReasonText, e.Reason))
	case rest.EventVerdict, rest.EventL7:
		color := command.Green
		if e.Verdict == "deny" || e.Verdict == "reject" {
			color = command.Red
		}
		return o.Paint(color, strings.ToUpper(e.Verdict))
	}
	return strings.ToUpper(e.Type)
}

// party names an end by its pod, or else by its address and reserved identity.
func (o *Options) party(p rest.EventParty) string {
	name := address(p)
	switch {
	case p.Pod != "":
		name = p.Pod
		if p.Port != 0 {
			name += ":" + strconv.Itoa(int(p.Port))
		}
	case len(p.Labels) > 0 && strings.HasPrefix(p.Labels[0], "reserved:"):
		name += " (" + strings.TrimPrefix(p.Labels[0], "reserved:") + ")"
	}
	if p.Identity != 0 && !o.Verbose {
		name += " [" + strconv.FormatInt(p.Identity, 10) + "]"
	}
	return name
}

func address(p rest.EventParty) string {
	if p.Port == 0 {
		return p.IP
	}
	return net.JoinHostPort(p.IP, strconv.Itoa(int(p.Port)))
}

func packet(e rest.Event) string {
	text := e.Protocol
	switch {
	case e.TCPFlags != "":
		text += " " + e.TCPFlags
	case strings.HasPrefix(e.Protocol, "ICMP"):
		text += fmt.Sprintf(" %d/%d", e.ICMPType, e.ICMPCode)
	}
	if e.Reply {
		text += " reply"
	}
	return text
}

// request is what was asked, and what came back or why nothing did.
func request(e rest.Event) string {
	text := e.L7.Protocol + " " + e.L7.Request
	if e.L7.Answer != "" {
		text += " -> " + e.L7.Answer
	}
	if e.L7.Latency > 0 {
		text += fmt.Sprintf(" in %.1f ms", e.L7.Latency)
	}
	if e.ReasonText != "" {
		text += " (" + e.ReasonText + ")"
	}
	return text
}

// clock is the time of day in UTC with milliseconds.
func clock(stamp string) string {
	t, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return stamp
	}
	return t.UTC().Format("15:04:05.000")
}
