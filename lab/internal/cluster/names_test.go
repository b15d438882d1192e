// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stentor-net/stentor/lab/internal/plan"
)

func TestNamespacesTellTheirLab(t *testing.T) {
	p, err := plan.New(plan.Options{Name: "my-lab"})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range p.AllNetNS() {
		if got := labOfNetNS(ns); got != "my-lab" {
			t.Errorf("%s: lab %q", ns, got)
		}
	}
	for _, ns := range []string{"st-dp-1234", "cni-7c0a", "st-", "node1", "st-x-net"} {
		if got := labOfNetNS(ns); got != "" {
			t.Errorf("%s is of no lab, got %q", ns, got)
		}
	}
}

func TestFoldersWithNamesOfLabsAreListed(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"here", "Not A Lab"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names, err := Names(root)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(names, "here") || slices.Contains(names, "Not A Lab") {
		t.Errorf("names %q", names)
	}
}
