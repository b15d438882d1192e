// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// dropEvent is what the demo reads of an event of `stentor monitor -o json`.
type dropEvent struct {
	Type       string     `json:"type"`
	Node       string     `json:"node"`
	Reason     int        `json:"reason"`
	ReasonText string     `json:"reasonText"`
	Protocol   string     `json:"protocol"`
	TCPFlags   string     `json:"tcpFlags"`
	Source     eventParty `json:"source"`
	Dest       eventParty `json:"destination"`
	Policies   []string   `json:"policies"`
	text       string     // the event as people read it
}

type eventParty struct {
	IP       string `json:"ip"`
	Port     uint16 `json:"port"`
	Identity int64  `json:"identity"`
	Pod      string `json:"pod"`
}

var dropArgs = []string{"monitor", "--type", "drop", "--from", namespace + "/xwing", "--port", "80", "--count", "1"}

// dropTimeout is for a monitor to start and see a drop.
const dropTimeout = 10 * time.Second

// seeDrop watches with the program that a user would use, while the xwing goes
// on trying to reach the Death Star on the other node. One monitor speaks to
// people, the other to us.
func (d *demo) seeDrop(ctx context.Context) (*dropEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	tries, stop := context.WithCancel(ctx)
	defer stop()
	var knocking, watching sync.WaitGroup
	knocking.Go(func() { d.tryLanding(tries) })
	var text, line string
	var errs [2]error
	watching.Go(func() { text, errs[0] = d.monitor(ctx) })
	watching.Go(func() { line, errs[1] = d.monitor(ctx, "-o", "json") })
	watching.Wait()
	stop()
	knocking.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	e := &dropEvent{text: text}
	if err := json.Unmarshal([]byte(line), e); err != nil {
		return nil, fmt.Errorf("read %q: %w", line, err)
	}
	if e.Type != "drop" || !strings.EqualFold(e.ReasonText, "policy denied") {
		return e, fmt.Errorf("an event of type %q and reason %q, want a drop by policy", e.Type, e.ReasonText)
	}
	return e, nil
}

// monitor returns the line in which `stentor monitor` tells of one drop.
func (d *demo) monitor(ctx context.Context, flags ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(d.Bin, "stentor"), append(slices.Clone(dropArgs), flags...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+d.Plan.Kubeconfig(), "NO_COLOR=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	line, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	if line == "" {
		return "", fmt.Errorf("stentor monitor showed no drop (%w): %s", errors.Join(err, ctx.Err()), strings.TrimSpace(errs.String()))
	}
	return line, nil
}

// tryLanding keeps the xwing knocking until ctx ends, and finishes what it began.
func (d *demo) tryLanding(ctx context.Context) {
	for ctx.Err() == nil {
		for _, f := range d.families() {
			host, ok := d.host(ship{name: "xwing", node: d.Plan.Nodes[0].Name}, podThere, f)
			if !ok {
				continue
			}
			// What comes of it is for the monitor to say.
			_, _ = d.probe(context.WithoutCancel(ctx), "xwing", "http://"+host+"/v1/request-landing#method=POST")
		}
	}
}
