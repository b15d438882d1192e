// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/api/rest"
)

// TestCnitoolDrivesThePlugin uses the CNI project's own program, as a person
// would by hand.
func TestCnitoolDrivesThePlugin(t *testing.T) {
	tool, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools/go.mod", "-n", "cnitool").Output()
	if err != nil {
		t.Skipf("cnitool cannot be built here: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("cnitool keeps results in /var/lib/cni, which is root's")
	}
	if _, err := os.Stat("/var/lib/cni"); errors.Is(err, fs.ErrNotExist) {
		t.Cleanup(func() { os.RemoveAll("/var/lib/cni") })
	}
	agent := newAgent(t)
	agent.start(t)
	dir := t.TempDir()
	if err := os.Symlink(must(os.Executable())(t), filepath.Join(dir, "stentor-cni")); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"st-cli-cnitool","plugins":[{"type":"stentor-cni","socket":%q,"waitSeconds":1}]}`, agent.socket)
	if err := os.WriteFile(filepath.Join(dir, "05-stentor.conflist"), conf, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(verb string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), strings.TrimSpace(string(tool)), append([]string{verb, "st-cli-cnitool"}, args...)...)
		cmd.Env = append(os.Environ(), "CNI_PATH="+dir, "NETCONFPATH="+dir, "CNI_NETNS_OVERRIDE=1",
			"CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=xwing")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("cnitool %s: %v\n%s", verb, err, out)
		}
		return string(out)
	}
	const netns = "/var/run/netns/st-cli-none"
	var result struct {
		IPs []struct{ Address string }
	}
	if out := run("add", netns); json.Unmarshal([]byte(out), &result) != nil || len(result.IPs) != 2 || result.IPs[0].Address != "10.0.1.7/32" {
		t.Errorf("add prints %s", out)
	}
	run("status", netns)
	run("check", netns)
	run("del", netns)
	var paths []string
	for _, c := range agent.seen() {
		paths = append(paths, strings.TrimPrefix(c.Path, "/v1/cni/"))
	}
	if got := strings.Join(paths, " "); got != "add status check del" {
		t.Errorf("the agent saw %s", got)
	}
	if first := agent.seen()[0]; first.Path != rest.PathCNIAdd || first.Req.PodName != "xwing" || first.Req.NetNS != netns {
		t.Errorf("ADD was %+v", first)
	}
}
