// SPDX-License-Identifier: Apache-2.0

// Package internal_test keeps the layers of ARCHITECTURE.md.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stentor-net/stentor"

type pkg struct {
	ImportPath  string
	Dir         string
	GoFiles     []string
	Imports     []string
	TestImports []string
}

// layers of the folders in internal/, lowest first. A package may import its
// own layer (but see edgesMeetInTables) and those below.
var layers = map[string]int{
	"abi": 0, "table": 0, "reconcile": 0, "label": 0, "prefix": 0,
	"identity": 1, "node": 1, "endpoint": 1, "policy": 1, "service": 1, "gateway": 1, "dnsname": 1, "ipam": 1, "flow": 1, "l7": 1,
	"k8s": 2, "kvstore": 2, "mesh": 2, "datapath": 2, "proxy": 2, "announce": 2, "observe": 2, "metric": 2, "ping": 2, "rpc": 2, "file": 2,
	"agent": 3, "operator": 3, "proxyd": 3, "relay": 3, "ui": 3, "cni": 3, "cli": 3, "testkit": 3, "bench": 3,
}

// fences name who may import what: any import path with the prefix.
var fences = []struct {
	importPrefix string
	allowed      []string // prefixes of our packages, relative to the module
}{
	{"github.com/cilium/ebpf", []string{"internal/datapath", "internal/testkit", "bpf/test", "internal/abi/gen"}},
	{"github.com/vishvananda/netlink", []string{"internal/datapath", "internal/testkit", "bpf/test"}},
	{"github.com/vishvananda/netns", []string{"internal/datapath", "internal/testkit", "bpf/test"}},
	{"k8s.io/client-go", []string{"internal/k8s", "internal/operator", "internal/cli"}},
	{"github.com/spf13/cobra", []string{"internal/cli", "cmd"}},
	{"github.com/prometheus", []string{"internal/metric"}},
	{"github.com/cilium/cilium", nil},
	{"github.com/cilium/statedb", nil},
	{"github.com/cilium/hive", nil},
}

// impure packages of the standard library and beyond, closed to layers 0 and 1.
var impure = []string{"os", "os/exec", "net", "net/http", "syscall", "golang.org/x/sys"}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,TestImports", module+"/...")
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		list = append(list, p)
	}
}

// folder is the first folder below internal/, or "".
func folder(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/internal/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

func under(importPath, prefix string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}

func TestImportsPointDownTheLayers(t *testing.T) {
	for _, p := range packages(t) {
		own := folder(p.ImportPath)
		layer, known := layers[own]
		if own != "" && !known {
			t.Errorf("%s: the folder has no layer: add it to ARCHITECTURE.md and to this test", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			switch target := folder(imp); {
			case !strings.HasPrefix(imp, module+"/"):
			case under(p.ImportPath, module+"/api") && !under(imp, module+"/api"):
				t.Errorf("%s imports %s: api imports nothing of ours", p.ImportPath, imp)
			case own == "" || target == "":
			case layers[target] > layer:
				t.Errorf("%s (layer %d) imports %s (layer %d)", p.ImportPath, layer, imp, layers[target])
			case layer == 2 && layers[target] == 2 && target != own:
				t.Errorf("%s imports %s: edges meet in tables, not in each other", p.ImportPath, imp)
			}
		}
	}
}

func TestPureLayersDoNoInputOrOutput(t *testing.T) {
	for _, p := range packages(t) {
		layer, known := layers[folder(p.ImportPath)]
		if !known || layer > 1 || strings.HasSuffix(p.ImportPath, "/gen") {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains(impure, imp) || under(imp, "golang.org/x/sys") {
				t.Errorf("%s imports %s: layers 0 and 1 are pure", p.ImportPath, imp)
			}
		}
	}
}

func TestLibrariesStayBehindTheirFences(t *testing.T) {
	for _, p := range packages(t) {
		for _, f := range fences {
			inside := slices.ContainsFunc(f.allowed, func(a string) bool { return under(p.ImportPath, module+"/"+a) })
			for _, imp := range slices.Concat(p.Imports, p.TestImports) {
				if under(imp, f.importPrefix) && !inside {
					t.Errorf("%s imports %s, which is for %v only", p.ImportPath, imp, f.allowed)
				}
			}
		}
	}
}

func TestSourceFilesStayReadable(t *testing.T) {
	const limit = 600 // lines
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(file string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != root || d.Name() == "node_modules" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if ext := path.Ext(file); d.IsDir() || ext != ".go" && ext != ".c" && ext != ".h" {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), "\n"); n > limit && !strings.Contains(string(text[:min(len(text), 2000)]), "DO NOT EDIT") {
			t.Errorf("%s has %d lines, more than %d", strings.TrimPrefix(file, root+"/"), n, limit)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
