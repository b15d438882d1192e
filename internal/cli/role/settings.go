// SPDX-License-Identifier: Apache-2.0

package role

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/internal/agent"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// settings are keys of the ConfigMap with their values. A flag wins over the
// environment, that over the directory. The first error stays.
type settings struct {
	values map[string]string
	err    error
}

// read collects the known keys. Other keys in the directory are another role's,
// as long as the schema has them.
func read(known []string, dir string, environ func(string) string, flags map[string]string) (*settings, error) {
	s := &settings{values: map[string]string{}}
	for _, key := range known {
		if dir != "" {
			content, err := os.ReadFile(filepath.Join(dir, key))
			if err == nil {
				s.values[key] = strings.TrimSpace(string(content))
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("read configuration: %w", err)
			}
		}
		if value := environ("STENTOR_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))); value != "" {
			s.values[key] = value
		}
		if value, ok := flags[key]; ok {
			s.values[key] = value
		}
	}
	return s, checkNames(dir)
}

// checkNames refuses a directory with a key that no role has.
func checkNames(dir string) error {
	if dir == "" {
		return nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() { // a mounted ConfigMap keeps its versions in ..data
			continue
		}
		if err := agent.UnknownOption(e.Name()); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

func (s *settings) fail(key, why string) {
	if s.err == nil {
		s.err = fmt.Errorf("%s: %q is %s", key, s.values[key], why)
	}
}

func (s *settings) text(key string) string { return s.values[key] }

// or is the text of a key, or what the schema has where it is not given.
func (s *settings) or(key string) string {
	if v := s.values[key]; v != "" {
		return v
	}
	for _, k := range agent.Schema() {
		if k.Name == key {
			return k.Default
		}
	}
	return ""
}

func (s *settings) flag(key string, otherwise bool) bool {
	if s.values[key] == "" {
		return otherwise
	}
	v, err := strconv.ParseBool(s.values[key])
	if err != nil {
		s.fail(key, "neither true nor false")
	}
	return v
}

func (s *settings) number(key string) int {
	if s.values[key] == "" {
		return 0
	}
	v, err := strconv.Atoi(s.values[key])
	if err != nil {
		s.fail(key, "not a number")
	}
	return v
}

// duration of a key; a 0 that is written means never, which is negative here.
func (s *settings) duration(key string) time.Duration {
	if s.values[key] == "" {
		return 0
	}
	v, err := time.ParseDuration(s.values[key])
	if err != nil {
		s.fail(key, "not a duration such as 30s")
	}
	if v < 0 {
		s.fail(key, "less than 0s")
	}
	if v == 0 {
		return -1
	}
	return v
}

func (s *settings) prefixes(key, otherwise string) []netip.Prefix {
	if s.values[key] == "" {
		s.values[key] = otherwise
	}
	var out []netip.Prefix
	for _, word := range strings.FieldsFunc(s.values[key], func(r rune) bool { return r == ' ' || r == ',' }) {
		p, err := netip.ParsePrefix(word)
		if err != nil {
			s.fail(key, "not a list of prefixes")
			return nil
		}
		out = append(out, p)
	}
	return out
}

// keyFlags adds a flag for each key and returns those that were given.
func keyFlags(cmd *cobra.Command, keys map[string]string) func() map[string]string {
	values := map[string]*string{}
	for key, help := range keys {
		values[key] = cmd.Flags().String(key, "", help)
	}
	return func() map[string]string {
		given := map[string]string{}
		for key, value := range values {
			if cmd.Flags().Changed(key) {
				given[key] = *value
			}
		}
		return given
	}
}

// logger of a role.
func logger(s command.Streams, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: level}))
}
