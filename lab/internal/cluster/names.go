// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
	"github.com/stentor-net/stentor/lab/internal/fabric"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// Names of the labs of which anything is on this machine: a folder below
// stateRoot, a network namespace or a cgroup.
func Names(stateRoot string) ([]string, error) {
	hs, err := cgroup.Hierarchies()
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	look := func(dir string, name func(entry string) string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return // no lab has been here
		}
		for _, e := range entries {
			if n := name(e.Name()); plan.ValidName(n) {
				found[n] = true
			}
		}
	}
	look(stateRoot, func(e string) string { return e })
	for _, h := range hs {
		look(h.Mount, func(e string) string { return after(e, plan.CgroupPrefix) })
	}
	look(filepath.Dir(fabric.NSPath("x")), labOfNetNS)
	return slices.Sorted(maps.Keys(found)), nil
}

// after is what follows prefix in s, or "".
func after(s, prefix string) string {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return ""
	}
	return rest
}

// labOfNetNS is the lab's name in st-NAME-fabric, st-NAME-outside and st-NAME-node1.
func labOfNetNS(netns string) string {
	lab := after(netns, plan.NetNSPrefix)
	i := strings.LastIndex(lab, "-")
	if i < 0 {
		return ""
	}
	switch end := lab[i+1:]; {
	case end == "fabric", end == "outside", after(end, "node") != "":
		return lab[:i]
	}
	return ""
}
