// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
)

// event is what the suite tells of one spec; lab/conformance writes it.
type event struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
	Message string  `json:"message"`
	At      string  `json:"at"`
}

// outcome is how a spec ended.
type outcome string

const (
	passed  outcome = "passed"
	failed  outcome = "failed"
	skipped outcome = "skipped" // by itself, while it ran
	ignored outcome = "ignored" // not selected
)

func (e event) outcome() outcome {
	switch {
	case e.State == "passed":
		return passed
	case e.State == "pending", e.State == "skipped" && e.Message == "":
		return ignored
	case e.State == "skipped":
		return skipped
	}
	return failed // as are panicked, timedout, interrupted, aborted
}

// reader reads the events file as it grows.
type reader struct {
	path   string
	offset int64
	rest   []byte // of a line that is not whole yet
}

// next returns the events that came since the last call.
func (r *reader) next() ([]event, error) {
	f, err := os.Open(r.path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	fresh := make([]byte, info.Size()-r.offset)
	n, err := f.ReadAt(fresh, r.offset)
	if n < len(fresh) {
		return nil, fmt.Errorf("read %s: %w", r.path, err)
	}
	r.offset += int64(n)
	r.rest = append(r.rest, fresh...)
	var out []event
	for {
		line, rest, ok := bytes.Cut(r.rest, []byte("\n"))
		if !ok {
			return out, nil
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return out, fmt.Errorf("%s: %w", r.path, err)
		}
		out = append(out, e)
		r.rest = rest
	}
}
