// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/cli/config"
	"github.com/stentor-net/stentor/internal/cli/endpoint"
	"github.com/stentor-net/stentor/internal/cli/identity"
	"github.com/stentor-net/stentor/internal/cli/install"
	"github.com/stentor-net/stentor/internal/cli/monitor"
	"github.com/stentor-net/stentor/internal/cli/status"
)

func factory() *command.Factory {
	var out bytes.Buffer
	none := func(context.Context) (*client.Client, error) { return nil, nil }
	return &command.Factory{
		Program: "stentor", Streams: command.Streams{In: &out, Out: &out, Err: &out},
		Agent: none, AnyAgent: none, Agents: func(context.Context) ([]*client.Client, error) { return nil, nil },
		Remote: func() bool { return false },
	}
}

// parsed runs the command that newCmd makes and returns the options it got.
func parsed[O any](t *testing.T, newCmd func(*command.Factory, func(context.Context, *O) error) *cobra.Command, args ...string) O {
	t.Helper()
	var got O
	cmd := newCmd(factory(), func(_ context.Context, o *O) error { got = *o; return nil })
	cmd.SetArgs(args)
	cmd.SilenceUsage = true
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFlagsBecomeOptions(t *testing.T) {
	e := parsed(t, endpoint.NewCmdList, "-l", "k8s:a=b,c", "-l", "x=y", "-o", "wide", "--state", "ready")
	if d := cmp.Diff([]string{"k8s:a=b,c", "x=y"}, e.Labels); d != "" || e.Output != command.Wide || e.State != "ready" {
		t.Errorf("%+v %s", e, d)
	}
	if g := parsed(t, endpoint.NewCmdGet, "default/xwing"); g.Which != "default/xwing" || g.Output != command.Table {
		t.Errorf("%+v", g)
	}
	m := parsed(t, monitor.NewCmd, "-t", "drop,verdict", "--from", "1", "--from", "a/b", "--port", "80", "--count", "3", "-v", "-o", "json")
	if d := cmp.Diff([]string{"drop", "policy-verdict"}, m.Types); d != "" || len(m.From) != 2 || m.Count != 3 || !m.Verbose || m.Output != command.JSON {
		t.Errorf("%+v %s", m, d)
	}
	s := parsed(t, status.NewCmd, "--wait", "--wait-timeout", "90s", "--brief")
	if !s.Wait || s.Timeout != 90*time.Second || !s.Brief || s.Output != command.Table {
		t.Errorf("%+v", s)
	}
	c := parsed(t, config.NewCmdSet, "a=b=c", "d=")
	if d := cmp.Diff(map[string]string{"a": "b=c", "d": ""}, c.Settings); d != "" {
		t.Error(d)
	}
	if i := parsed(t, identity.NewCmdList, "k8s:a=b", "k8s:c=d"); len(i.Labels) != 2 {
		t.Errorf("%+v", i)
	}
	if i := parsed(t, install.NewCmd, "--bpffs", "", "--bin-dir", "/x"); i.BPFFS != "" || i.BinDir != "/x" {
		t.Errorf("%+v", i)
	}
}
