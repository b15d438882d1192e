// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/cli/command"
)

var update = flag.Bool("update", false, "write the expected output of the stories again")

func TestMain(m *testing.M) {
	run := func(name string) func() {
		return func() { os.Exit(Main(name, os.Args[1:])) }
	}
	testscript.Main(m, map[string]func(){"stentor": run("stentor"), "cilium": run("/usr/bin/cilium"),
		"cilium-dbg": run("/usr/bin/cilium-dbg"), "hubble": run("hubble")})
}

// TestStories runs the program against agents that serve the files of a story:
// agent/v1/... on this node, nodes/NAME/v1/... behind an API server that serves
// cluster/...; $SOCKET, $KUBECONFIG_FILE.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TERM", "dumb")
			short, err := os.MkdirTemp("", "cli") // a socket's path must be short
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(short) })
			d := deferrer{env}
			socket := filepath.Join(short, "s")
			env.Setenv("SOCKET", socket)
			if _, err := os.Stat(filepath.Join(env.WorkDir, "agent")); err == nil {
				fakeAgent(d, filepath.Join(env.WorkDir, "agent"), socket)
			}
			return setupCluster(t, env, d, short)
		},
	})
}

func setupCluster(t *testing.T, env *testscript.Env, d deferrer, short string) error {
	cluster := filepath.Join(env.WorkDir, "cluster")
	if _, err := os.Stat(cluster); err != nil {
		return nil
	}
	agents := map[string]string{}
	nodes, _ := filepath.Glob(filepath.Join(env.WorkDir, "nodes", "*"))
	for _, dir := range nodes {
		pod := "stentor-" + filepath.Base(dir)
		agents[pod] = filepath.Join(short, filepath.Base(dir))
		fakeAgent(d, dir, agents[pod])
	}
	server := fakeCluster(t, cluster, agents)
	file := filepath.Join(env.WorkDir, "kubeconfig")
	env.Setenv("KUBECONFIG_FILE", file)
	return os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":%q}}],"users":[{"name":"u","user":{}}],
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, server.URL), 0o600)
}

type deferrer struct{ *testscript.Env }

func (d deferrer) Fatal(args ...any) { d.T().Fatal(args...) }

func newRoot() *cobra.Command {
	var out bytes.Buffer
	return NewRoot(&command.Factory{Program: "stentor", Version: "test", Streams: command.Streams{In: &out, Out: &out, Err: &out}})
}

func TestTheReferenceIsCurrent(t *testing.T) {
	const file = "../../docs/reference/cli.md"
	var want strings.Builder
	Reference(&want, newRoot())
	if *update {
		if err := os.WriteFile(file, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("%s is not current: run go generate ./internal/cli", file)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: Short is %q: one sentence without a full stop", cmd.CommandPath(), cmd.Short)
		}
		if !cmd.HasSubCommands() && !cmd.Hidden && cmd.Name() != "version" && cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if !cmd.HasSubCommands() && cmd.Args == nil && !cmd.DisableFlagParsing && !strings.Contains(cmd.Use, "...") {
			t.Errorf("%s does not check its arguments", cmd.CommandPath())
		}
		for _, line := range strings.Split(cmd.Long, "\n") {
			if len(line) > 90 {
				t.Errorf("%s: a line of Long has %d characters", cmd.CommandPath(), len(line))
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

func TestExamplesParse(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			words := strings.Fields(strings.TrimSpace(line))
			if cmd.DisableFlagParsing || strings.Contains(line, "'") {
				continue
			}
			found, rest, err := newRoot().Find(words[1:])
			if err != nil || found.CommandPath() != cmd.CommandPath() && found.Parent().CommandPath() != cmd.CommandPath() {
				t.Errorf("%q is not a call of %s: %v", line, cmd.CommandPath(), err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
			} else if found.Args != nil {
				if err := found.Args(found, found.Flags().Args()); err != nil {
					t.Errorf("%q: %v", line, err)
				}
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}
