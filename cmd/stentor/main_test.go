// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const budget = 55 << 20 // bytes, stripped

func TestTheProgramKeepsItsSize(t *testing.T) {
	if testing.Short() {
		t.Skip("links the program")
	}
	out := filepath.Join(t.TempDir(), "stentor")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > budget {
		t.Errorf("%d bytes, %d allowed", info.Size(), budget)
	}
}
