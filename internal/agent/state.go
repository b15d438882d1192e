// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/file"
)

// stateDir keeps what a restart must find again: one file per endpoint, which
// appears whole or not at all.
type stateDir string

// savedEndpoint is the content of a file.
type savedEndpoint struct {
	Version  int               `json:"version"` // 1
	Attached bool              `json:"attached"`
	Endpoint endpoint.Endpoint `json:"endpoint"`
}

const stateVersion = 1

func (d stateDir) endpoints() string { return filepath.Join(string(d), "state", "endpoints") }

func (d stateDir) path(id uint16) string {
	return filepath.Join(d.endpoints(), strconv.Itoa(int(id))+".json")
}

// save stores an endpoint. Attached says that ADD was answered, or is about to
// be; a restart takes down what was not attached.
func (d stateDir) save(e endpoint.Endpoint, attached bool) error {
	content, err := json.Marshal(savedEndpoint{Version: stateVersion, Attached: attached, Endpoint: e})
	if err != nil {
		return fmt.Errorf("save endpoint %d: %w", e.ID, err)
	}
	if err := file.Write(d.path(e.ID), content, 0o600); err != nil {
		return fmt.Errorf("save endpoint %d: %w", e.ID, err)
	}
	return nil
}

func (d stateDir) forget(id uint16) error {
	if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget endpoint %d: %w", id, err)
	}
	return nil
}

// load reads all endpoints. Files that cannot be read are in the error; the
// others are returned all the same.
func (d stateDir) load() ([]savedEndpoint, error) {
	if err := os.MkdirAll(d.endpoints(), 0o755); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	entries, err := os.ReadDir(d.endpoints())
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	var out []savedEndpoint
	var errs []error
	for _, e := range entries {
		name := filepath.Join(d.endpoints(), e.Name())
		if !strings.HasSuffix(e.Name(), ".json") {
			errs = append(errs, os.Remove(name)) // a write that was interrupted
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("read endpoint state: %w", err))
			continue
		}
		var s savedEndpoint
		if err := json.Unmarshal(content, &s); err != nil || s.Version != stateVersion || s.Endpoint.ID == 0 {
			errs = append(errs, fmt.Errorf("endpoint state %s is not understood", name))
			continue
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

// removeAll forgets all endpoints and the place of the node.
func (d stateDir) removeAll() error {
	if err := os.RemoveAll(filepath.Join(string(d), "state")); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}
