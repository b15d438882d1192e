// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/plan"
)

// process is a process that can be told from a later one with the same id.
type process struct {
	Pid   int    `json:"pid"`
	Start string `json:"start"` // start time in clock ticks since boot, proc(5)
}

func newProcess(pid int) process { return process{Pid: pid, Start: startTime(pid)} }

func (p process) alive() bool { return p.Pid > 0 && p.Start != "" && startTime(p.Pid) == p.Start }

// startTime is empty if there is no such process or it has ended.
func startTime(pid int) string {
	f := statFields(pid)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return ""
	}
	return f[19]
}

// isZombie says whether a process has ended and is not yet waited for.
func isZombie(pid int) bool {
	f := statFields(pid)
	return len(f) > 0 && f[0] == "Z"
}

// statFields are those of /proc/PID/stat from the state on.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	// The command name, in parentheses, may hold anything.
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// state is what a lab remembers of itself, in state.json of its folder.
type state struct {
	Options      plan.Options       `json:"options"`
	Created      time.Time          `json:"created"`
	HostPort     int                `json:"hostPort"` // of the API server, at 127.0.0.1
	ControlPlane process            `json:"controlPlane"`
	Nodes        map[string]process `json:"nodes"`
	Images       []string           `json:"images"` // archives imported
	Times        []phase            `json:"times"`
}

// phase is a step of up and how long after its start it was done.
type phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

const stateFile = "state.json"

func readState(p *plan.Plan) (*state, error) {
	b, err := os.ReadFile(p.Path(stateFile))
	if err != nil {
		return nil, err
	}
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", p.Path(stateFile), err)
	}
	return s, nil
}

func (s *state) write(p *plan.Plan) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := p.Path(stateFile + ".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, p.Path(stateFile))
}

// ErrNotUp is returned for a lab that is not there.
var ErrNotUp = errors.New("is not up")

// Load finds a lab that is up, whatever its options but the name.
func Load(o plan.Options) (*Lab, error) {
	p, err := plan.New(plan.Options{Name: o.Name, StateRoot: o.StateRoot})
	if err != nil {
		return nil, err
	}
	s, err := readState(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q %w (stentor lab up --name %s)", p.Name, ErrNotUp, p.Name)
	}
	if err != nil {
		return nil, err
	}
	s.Options.StateRoot = p.StateRoot
	if p, err = plan.New(s.Options); err != nil {
		return nil, err
	}
	return &Lab{Plan: p, state: s}, nil
}

// lock keeps two commands from changing a lab at the same time. The folder
// itself is the lock, so that none is left behind.
func lock(p *plan.Plan) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(p.Dir, 0o700); err != nil {
			return nil, err
		}
		f, err := os.Open(p.Dir)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("lab %q: another stentor-lab is working on it", p.Name)
		}
		// The holder before us may have removed the folder.
		var ours, there unix.Stat_t
		if unix.Fstat(int(f.Fd()), &ours) == nil && unix.Stat(p.Dir, &there) == nil && ours.Ino == there.Ino {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}

func removeDir(p *plan.Plan) error {
	if err := os.RemoveAll(p.Dir); err != nil {
		return err
	}
	// The parent goes with the last lab.
	if err := os.Remove(filepath.Dir(p.Dir)); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
