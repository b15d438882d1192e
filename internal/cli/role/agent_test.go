// SPDX-License-Identifier: Apache-2.0

package role

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/agent"
	"github.com/stentor-net/stentor/internal/cli/command"
)

func runAgent(t *testing.T, files map[string]string, args ...string) (agent.Options, string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var got agent.Options
	var out strings.Builder
	f := &command.Factory{Version: "v1", Streams: command.Streams{Out: &out, Err: &out}}
	cmd := NewCmdAgent(f, func(_ context.Context, o agent.Options) error { got = o; return nil })
	cmd.SetArgs(append([]string{"--config-dir", dir}, args...))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return got, out.String(), err
}

func TestTheAgentTakesItsOptionsFromAllSources(t *testing.T) {
	t.Setenv("K8S_NODE_NAME", "n1")
	t.Setenv("STENTOR_MTU", "9000")
	var got agent.Options
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "routing-mode"), []byte("native"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := &command.Factory{Version: "v1"}
	cmd := NewCmdAgent(f, func(_ context.Context, o agent.Options) error { got = o; return nil })
	cmd.SetArgs([]string{"--config-dir", dir, "--enable-ipv6", "true"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got.NodeName != "n1" || got.MTU != 9000 || got.Routing != agent.RoutingNative || !got.IPv6 || got.Version != "v1" {
		t.Errorf("got %+v", got)
	}
}

func TestAnUnknownKeyOfTheAgentIsNamed(t *testing.T) {
	t.Setenv("K8S_NODE_NAME", "n1")
	_, _, err := runAgent(t, map[string]string{"routing-mod": "native"})
	if err == nil || !strings.Contains(err.Error(), "routing-mod") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestTheAgentExplainsItsOptions(t *testing.T) {
	_, out, err := runAgent(t, nil, "--explain-config")
	if err != nil || !strings.Contains(out, "| `routing-mode` |") {
		t.Errorf("got %v\n%s", err, out)
	}
}

func TestTheOperatorsKeysAreThoseOfTheOneSchema(t *testing.T) {
	keys := operatorKeys()
	for _, key := range append([]string{"cluster-pool-ipv4-cidr", "skip-crd-creation"}, sharedKeys...) {
		if keys[key] == "" {
			t.Errorf("%s is not in the schema", key)
		}
	}
	if _, ok := keys["routing-mode"]; ok {
		t.Error("the operator takes keys that it does not read")
	}
}
