// SPDX-License-Identifier: Apache-2.0

// Package cgroup gives a lab its own cgroups in every hierarchy of the machine.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Hierarchy is one cgroup file system mounted on the machine.
type Hierarchy struct {
	Mount string `json:"mount"` // where it is mounted
	// Options mount it again elsewhere; empty for version 2.
	Options string `json:"options"`
	V2      bool   `json:"v2"`
}

// Hierarchies lists the machine's hierarchies.
func Hierarchies() ([]Hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

// parse reads mountinfo (proc(5)); the first mount of each hierarchy counts.
func parse(r io.Reader) ([]Hierarchy, error) {
	var out []Hierarchy
	seen := map[string]bool{}
	s := bufio.NewScanner(r)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || left[3] != "/" {
			continue
		}
		h := Hierarchy{Mount: left[4], V2: right[0] == "cgroup2"}
		switch right[0] {
		case "cgroup2":
		case "cgroup":
			h.Options = v1Options(right[2])
		default:
			continue
		}
		if key := h.Options; !seen[key] {
			seen[key] = true
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no cgroup file system is mounted (mount -t cgroup2 cgroup2 /sys/fs/cgroup)")
	}
	return out, s.Err()
}

// v1Options keeps of a superblock's options those that name the hierarchy.
func v1Options(super string) string {
	var keep []string
	named := false
	for _, o := range strings.Split(super, ",") {
		switch {
		case o == "rw" || o == "ro" || o == "xattr" || o == "clone_children" || strings.HasPrefix(o, "release_agent="):
		case strings.HasPrefix(o, "name="):
			named = true
			keep = append(keep, o)
		default:
			keep = append(keep, o)
		}
	}
	if named {
		keep = slices.Insert(keep, 0, "none")
	}
	return strings.Join(keep, ",")
}

// Controllers names the controllers of a version 1 hierarchy, for the
// folder names under /sys/fs/cgroup.
func (h Hierarchy) Controllers() []string {
	var out []string
	for _, o := range strings.Split(h.Options, ",") {
		if name, ok := strings.CutPrefix(o, "name="); ok {
			out = append(out, name)
		} else if o != "none" && o != "" {
			out = append(out, o)
		}
	}
	return out
}

// Create makes the cgroup path (relative, like "lab/node1") in every hierarchy.
func Create(hs []Hierarchy, path string) error {
	for _, h := range hs {
		dir := h.Mount
		for _, elem := range strings.Split(path, "/") {
			parent := dir
			dir = filepath.Join(dir, elem)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := inherit(h, Unified(hs), parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// inherit makes a new cgroup usable: a version 1 cpuset is born empty and
// takes no process, a version 2 cgroup has only what its parent enables. Where
// version 1 has the controllers there is nothing to enable.
func inherit(h Hierarchy, alone bool, parent, dir string) error {
	if h.V2 {
		if !alone {
			return nil
		}
		have, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, c := range strings.Fields(string(have)) {
			// A controller that cannot be enabled here is not there for
			// pods either; the kubelet says which it misses.
			_ = os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+c), 0o644)
		}
		return nil
	}
	if !slices.Contains(h.Controllers(), "cpuset") {
		return nil
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, f))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Unified says whether version 2 is all there is.
func Unified(hs []Hierarchy) bool { return len(hs) == 1 && hs[0].V2 }

// Leaf is where the processes of the cgroup path belong. A version 2 cgroup
// that gives controllers to its children can have no process itself.
func Leaf(hs []Hierarchy, path string) string {
	if Unified(hs) {
		return path + "/system"
	}
	return path
}

// Enter moves the process pid into the cgroup path of every hierarchy; pid 0
// is the caller, also where pids are counted in another namespace.
func Enter(hs []Hierarchy, path string, pid int) error {
	for _, h := range hs {
		f := filepath.Join(h.Mount, path, "cgroup.procs")
		if err := os.WriteFile(f, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}

// Exists says whether the cgroup is there in any hierarchy.
func Exists(hs []Hierarchy, path string) bool {
	for _, h := range hs {
		if _, err := os.Stat(filepath.Join(h.Mount, path)); err == nil {
			return true
		}
	}
	return false
}

// Remove kills every process in the cgroup path or below it and removes the
// cgroup, in all hierarchies. It gives up after timeout.
func Remove(hs []Hierarchy, path string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		err := removeOnce(hs, path)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", path, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func removeOnce(hs []Hierarchy, path string) error {
	var errs []error
	for _, h := range hs {
		root := filepath.Join(h.Mount, path)
		if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if h.V2 {
			// Kills the whole tree at once, forks included (Linux 5.14).
			_ = os.WriteFile(filepath.Join(root, "cgroup.kill"), []byte("1"), 0o644)
		}
		errs = append(errs, removeTree(root))
	}
	return errors.Join(errs...)
}

func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		pids, err := Pids(d)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := syscall.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "rmdir", Path: d, Err: err}
		}
	}
	return nil
}

// Pids lists the processes directly in the cgroup folder dir.
func Pids(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for _, f := range strings.Fields(string(b)) {
		// 0 is a process that this pid namespace cannot see.
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			out = append(out, pid)
		}
	}
	return out, nil
}
