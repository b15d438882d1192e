// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
	"github.com/stentor-net/stentor/lab/internal/fabric"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// killTimeout is for processes to end and cgroups to empty after SIGKILL.
const killTimeout = 20 * time.Second

// Down removes every trace of the lab with this name, whatever state it is
// in. It says whether there was anything.
func Down(o plan.Options) (found bool, err error) {
	p, err := plan.New(plan.Options{Name: o.Name, StateRoot: o.StateRoot})
	if err != nil {
		return false, err
	}
	hs, err := cgroup.Hierarchies()
	if err != nil {
		return false, err
	}
	b := &builder{Lab: &Lab{Plan: p}, cgroups: hs}
	if _, err := os.Stat(p.Dir); errors.Is(err, fs.ErrNotExist) && !b.leftovers() {
		return false, nil
	}
	unlock, err := lock(p)
	if err != nil {
		return true, err
	}
	defer unlock()
	return true, errors.Join(b.clear(), removeDir(p))
}

// leftovers says whether anything of a lab is there but its folder, which up
// has just made.
func (b *builder) leftovers() bool {
	if cgroup.Exists(b.cgroups, b.Plan.Cgroup) {
		return true
	}
	for _, ns := range b.Plan.AllNetNS() {
		if fabric.Exists(ns) {
			return true
		}
	}
	_, err := os.Stat(b.Plan.Path(stateFile))
	return err == nil
}

// clear ends all processes of the lab, which takes nodes' mounts along, and
// removes its cgroups, network namespaces and files; the empty folder stays.
func (b *builder) clear() error {
	s, err := readState(b.Plan)
	if err != nil {
		s = &state{} // a crash before it was written, or no lab
	}
	if err := cgroup.Remove(b.cgroups, b.Plan.Cgroup, killTimeout); err != nil {
		return err
	}
	s.waitGone()
	if err := fabric.Down(b.Plan); err != nil {
		return err
	}
	entries, err := os.ReadDir(b.Plan.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(b.Plan.Path(e.Name())))
	}
	return errors.Join(errs...)
}

// waitGone waits until the killed first processes are collected by the
// machine's init, so that a look at the process table finds none of them. An
// init that does not collect is not waited for long.
func (s *state) waitGone() {
	pids := []int{s.ControlPlane.Pid}
	for _, n := range s.Nodes {
		pids = append(pids, n.Pid)
	}
	deadline := time.Now().Add(2 * time.Second)
	for _, pid := range pids {
		for pid > 0 && isZombie(pid) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
	}
}
