// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const programs = "internal/datapath/bpf" // folder of the compiled programs

// overlay writes what the mutant changes below dir, and the file that tells the
// go command to read it instead of the tree, which stays as it is.
func overlay(ctx context.Context, root, dir string, m mutant) (string, error) {
	files, err := m.files(root)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, text := range files {
		to := filepath.Join(dir, "tree", name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(root, name)] = to
	}
	if m.changesPrograms() {
		if err := compile(ctx, root, dir, replace); err != nil {
			return "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o644)
}

// compile makes the programs of the mutated C and adds them to the overlay.
func compile(ctx context.Context, root, dir string, replace map[string]string) error {
	source, compiled := filepath.Join(dir, "tree", "bpf"), filepath.Join(dir, "compiled")
	if err := copyRest(filepath.Join(root, "bpf"), source); err != nil {
		return err
	}
	if err := os.MkdirAll(compiled, 0o755); err != nil {
		return err
	}
	// The commands of go generate, with other places.
	doc, err := os.ReadFile(filepath.Join(root, programs, "doc.go"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(doc)) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "//go:generate ")
		if !ok || !strings.Contains(command, "bpf2go") {
			continue
		}
		command = strings.Replace(command, "bpf2go", "bpf2go -go-package bpf -output-dir "+compiled, 1)
		command = strings.Replace(command, "../../../bpf", source, 1)
		command = strings.Replace(command, "-Wall -Werror", "-w", 1) // what is broken may leave something unused
		cmd := exec.CommandContext(ctx, "sh", "-c", command)
		cmd.Dir = filepath.Join(root, programs)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, out)
		}
	}
	made, err := os.ReadDir(compiled)
	if err != nil {
		return err
	}
	for _, f := range made {
		replace[filepath.Join(root, programs, f.Name())] = filepath.Join(compiled, f.Name())
	}
	return nil
}

// copyRest copies the C sources that are not there yet.
func copyRest(from, to string) error {
	for _, pattern := range []string{"*.c", "lib/*"} {
		names, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			rel, err := filepath.Rel(from, name)
			if err != nil {
				return err
			}
			target := filepath.Join(to, rel)
			if _, err := os.Stat(target); err == nil {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(target, b, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
