// SPDX-License-Identifier: Apache-2.0

package cleanup

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/datapath"
)

// node is a made-up node with all that cleanup finds.
func node(t *testing.T, answer string) (*Options, *strings.Builder, *int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cu") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"net.d/05-stentor.conflist", "net.d/10-bridge.conf.stentor_bak", "bin/stentor-cni", "bin/portmap", "stentor/endpoints.json"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	talk, removed := &strings.Builder{}, 0
	return &Options{
		Streams: command.Streams{In: strings.NewReader(answer), Err: talk},
		Datapath: func(_ context.Context, c datapath.Config) error {
			if c.BPFDir != "/pins" {
				t.Errorf("directory %q", c.BPFDir)
			}
			removed++
			return nil
		},
		BPFDir: "/pins", Socket: filepath.Join(dir, "stentor/stentor.sock"),
		CNIConf: filepath.Join(dir, "net.d/05-stentor.conflist"), CNIBin: filepath.Join(dir, "bin/stentor-cni"),
	}, talk, &removed
}

func left(t *testing.T, o *Options) string {
	t.Helper()
	var names []string
	root := filepath.Dir(filepath.Dir(o.Socket))
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func TestAYesRemovesOursAndGivesOthersTheirNamesBack(t *testing.T) {
	o, talk, removed := node(t, "y\n")
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := left(t, o); got != "bin/portmap net.d/10-bridge.conf" || *removed != 1 {
		t.Errorf("left %s, datapath removed %d times", got, *removed)
	}
	if !strings.Contains(talk.String(), "[y/N]") {
		t.Errorf("did not ask: %s", talk)
	}
	o.Force = true
	if err := run(t.Context(), o); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestAnythingButAYesRemovesNothing(t *testing.T) {
	for _, answer := range []string{"", "\n", "n\n", "yeah\n"} {
		o, _, removed := node(t, answer)
		before := left(t, o)
		if err := run(t.Context(), o); err == nil || *removed != 0 || left(t, o) != before {
			t.Errorf("answer %q: %v, left %s", answer, err, left(t, o))
		}
	}
}

func TestARunningAgentKeepsItsNode(t *testing.T) {
	o, _, removed := node(t, "")
	o.Force = true
	l, err := net.Listen("unix", o.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "the agent runs") || *removed != 0 {
		t.Errorf("got %v", err)
	}
}

func TestWhatFailsDoesNotStopTheRest(t *testing.T) {
	o, _, _ := node(t, "")
	o.Force = true
	o.Datapath = func(context.Context, datapath.Config) error { return errors.New("no rights") }
	err := run(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "datapath: no rights") {
		t.Errorf("got %v", err)
	}
	if got := left(t, o); got != "bin/portmap net.d/10-bridge.conf" {
		t.Errorf("left %s", got)
	}
}
