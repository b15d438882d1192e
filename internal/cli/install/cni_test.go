// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/cli/command"
)

func TestThePluginIsReplacedOnlyWhenItDiffers(t *testing.T) {
	dir := t.TempDir()
	source, bin := filepath.Join(dir, "stentor-cni"), filepath.Join(dir, "opt/cni/bin")
	var talk bytes.Buffer
	install := func(content string) string {
		t.Helper()
		talk.Reset()
		if err := os.WriteFile(source, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := run(&Options{Streams: command.Streams{Err: &talk}, Source: source, BinDir: bin}); err != nil {
			t.Fatal(err)
		}
		return talk.String()
	}
	for _, step := range []struct{ content, says string }{{"one", "installed"}, {"one", "is current"}, {"two", "installed"}} {
		if said := install(step.content); !strings.Contains(said, step.says) {
			t.Errorf("%s: said %q", step.content, said)
		}
	}
	target := filepath.Join(bin, "stentor-cni")
	got, err := os.ReadFile(target)
	if err != nil || string(got) != "two" {
		t.Errorf("installed %q, %v", got, err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	left, _ := os.ReadDir(bin)
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAMissingPluginIsNamed(t *testing.T) {
	err := run(&Options{Source: "/none/stentor-cni", BinDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "/none/stentor-cni") {
		t.Errorf("got %v", err)
	}
}
