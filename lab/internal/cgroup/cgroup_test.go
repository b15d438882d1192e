// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestHierarchiesAreReadFromMountinfo(t *testing.T) {
	for name, c := range map[string]struct {
		mountinfo string
		want      []Hierarchy
	}{
		"version 2 alone": {
			`30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate`,
			[]Hierarchy{{Mount: "/sys/fs/cgroup", V2: true}},
		},
		"both, with controllers together and a name": {
			`31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:3 - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 30 0:29 / /elsewhere rw - cgroup2 cgroup2 rw
35 30 0:30 /sub /part rw - cgroup cgroup rw,memory
36 30 0:31 / /run rw - tmpfs tmpfs rw`,
			[]Hierarchy{
				{Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
				{Mount: "/sys/fs/cgroup/systemd", Options: "none,name=systemd"},
				{Mount: "/sys/fs/cgroup/unified", V2: true},
			},
		},
	} {
		got, err := parse(strings.NewReader(c.mountinfo))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
	if _, err := parse(strings.NewReader("")); err == nil {
		t.Error("a machine without cgroups is no error")
	}
}

func TestControllersOfAHierarchyAreItsFolders(t *testing.T) {
	h := Hierarchy{Options: "none,name=systemd"}
	if got := h.Controllers(); !reflect.DeepEqual(got, []string{"systemd"}) {
		t.Errorf("got %v, want systemd", got)
	}
	h.Options = "cpu,cpuacct"
	if got := h.Controllers(); !reflect.DeepEqual(got, []string{"cpu", "cpuacct"}) {
		t.Errorf("got %v, want cpu and cpuacct", got)
	}
}

func TestRemovingACgroupEndsItsProcesses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	hs, err := Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("st-lab-test-%d/inner", os.Getpid())
	top := filepath.Dir(path)
	t.Cleanup(func() {
		if err := Remove(hs, top, 10*time.Second); err != nil {
			t.Error(err)
		}
	})
	if err := Create(hs, path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := Enter(hs, path, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if !Exists(hs, path) {
		t.Error("the cgroup is not there")
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := Remove(hs, top, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process ended with %v, want killed", err)
	}
	if Exists(hs, top) {
		t.Error("the cgroup is still there")
	}
}
