// SPDX-License-Identifier: Apache-2.0

package proxyd

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/stentor-net/stentor/internal/file"
	"github.com/stentor-net/stentor/internal/l7"
)

// store keeps the last rules in a file: a line with the hash of what follows,
// then the rules as JSON. Rules may hold what only the node may know.
type store string

func (s store) save(sets []l7.Source) error {
	content, err := json.Marshal(sets)
	if err != nil {
		return fmt.Errorf("keep rules: %w", err)
	}
	head := fmt.Appendf(nil, "%x\n", sha256.Sum256(content))
	if err := file.WriteDurable(string(s), append(head, content...), 0o600); err != nil {
		return fmt.Errorf("keep rules: %w", err)
	}
	return nil
}

// load gives no rules if there is no file, and an error if it is damaged.
func (s store) load() ([]l7.Source, error) {
	content, err := os.ReadFile(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	const head = 2*sha256.Size + 1
	if len(content) < head || string(content[:head]) != fmt.Sprintf("%x\n", sha256.Sum256(content[head:])) {
		return nil, fmt.Errorf("read rules: %s is damaged: the agent will send them anew", s)
	}
	var sets []l7.Source
	if err := json.Unmarshal(content[head:], &sets); err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	return sets, nil
}
