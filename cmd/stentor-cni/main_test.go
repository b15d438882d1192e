// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const budget = 4 << 20 // bytes, stripped

func build(t *testing.T, pkg string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a program")
	}
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

func TestThePluginStaysSmall(t *testing.T) {
	info, err := os.Stat(build(t, "."))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > budget {
		t.Errorf("%d bytes, %d allowed", info.Size(), budget)
	}
}

func TestThePluginDoesWithoutLargePackages(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, bad := range []string{"net/http", "crypto/tls", "k8s.io/", "github.com/vishvananda/netlink", "github.com/cilium/ebpf", "github.com/spf13/cobra"} {
			if dep == bad || strings.HasSuffix(bad, "/") && strings.HasPrefix(dep, bad) {
				t.Errorf("links %s", dep)
			}
		}
	}
}
