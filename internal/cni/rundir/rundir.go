// SPDX-License-Identifier: Apache-2.0

// Package rundir holds what the CNI plugin leaves in the agent's run directory while the agent is away.
//
// The plugin queues deletions there; the agent drains them. An agent that is
// ready beats: it renews the time of a file, by which the plugin knows since
// when the agent is away.
//
// The agent must listen on its socket before it drains: the plugin queues first
// and tries the socket once more, so that one of the two sees each deletion.
package rundir

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/file"
)

const (
	queueName = "deleteQueue"
	beatName  = "ready"
	suffix    = ".json"

	// MaxDeletions is how many deletions the queue takes.
	MaxDeletions = 1024
	// BeatEvery is how often a ready agent should call Beat.
	BeatEvery = 5 * time.Second
)

// ErrQueueFull says that MaxDeletions wait already.
var ErrQueueFull = errors.New("queue of deletions is full")

// Dir is the agent's run directory, the one that holds its socket.
type Dir string

// QueueDeletion keeps the deletion until the agent drains it. An attachment that
// is queued already is no error. The file appears whole or not at all.
func (d Dir) QueueDeletion(req rest.CNIRequest) error {
	dir := filepath.Join(string(d), queueName)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("queue the deletion: %w", err)
	}
	waiting, err := d.files()
	if err != nil {
		return err
	}
	if len(waiting) >= MaxDeletions {
		return fmt.Errorf("%w: %d in %s", ErrQueueFull, len(waiting), dir)
	}
	content, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("queue the deletion: %w", err)
	}
	if err := file.Write(d.file(req), content, 0o600); err != nil {
		return fmt.Errorf("queue the deletion: %w", err)
	}
	return nil
}

// ForgetDeletion takes a deletion out of the queue, done by other means.
func (d Dir) ForgetDeletion(req rest.CNIRequest) error {
	if err := os.Remove(d.file(req)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the deletion: %w", err)
	}
	return nil
}

// DrainDeletions hands each queued deletion to del; those for which it returns
// nil leave the queue. A file that cannot be understood leaves it too. The error
// joins what went wrong.
func (d Dir) DrainDeletions(del func(rest.CNIRequest) error) error {
	files, err := d.files()
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the plugin reached the agent by itself
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read a queued deletion: %w", err))
			continue
		}
		var req rest.CNIRequest
		if err := json.Unmarshal(content, &req); err != nil || req.ContainerID == "" {
			errs = append(errs, fmt.Errorf("drop the queued deletion %s: not understood: %.100q", filepath.Base(file), content))
			errs = append(errs, os.Remove(file))
			continue
		}
		if err := del(req); err != nil {
			errs = append(errs, fmt.Errorf("delete %s of container %s: %w", req.IfName, req.ContainerID, err))
			continue
		}
		errs = append(errs, d.ForgetDeletion(req))
	}
	return errors.Join(errs...)
}

// Deletions counts the queue.
func (d Dir) Deletions() (int, error) {
	files, err := d.files()
	return len(files), err
}

// Beat says that the agent is ready now.
func (d Dir) Beat() error {
	name := filepath.Join(string(d), beatName)
	now := time.Now()
	if err := os.Chtimes(name, now, now); err == nil {
		return nil
	}
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		return fmt.Errorf("mark the agent as ready: %w", err)
	}
	return nil
}

// LastBeat is when the agent was last seen ready; never, if ok is false.
func (d Dir) LastBeat() (last time.Time, ok bool) {
	info, err := os.Stat(filepath.Join(string(d), beatName))
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}

// file names the request's place in the queue: a hash, since a container's id
// may be longer than a file's name.
func (d Dir) file(req rest.CNIRequest) string {
	h := fnv.New128a()
	h.Write([]byte(req.ContainerID + "/" + req.IfName))
	return filepath.Join(string(d), queueName, hex.EncodeToString(h.Sum(nil))+suffix)
}

func (d Dir) files() ([]string, error) {
	dir := filepath.Join(string(d), queueName)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list queued deletions: %w", err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}
