// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Sources of options; a later one wins over an earlier one.
type Sources struct {
	// ConfigDir holds one file per key, as a mounted ConfigMap does. Optional.
	ConfigDir string
	// Environ is as os.Environ returns it: STENTOR_ and the key in upper case
	// with underscores. Optional.
	Environ []string
	// Flags are the keys given on the command line. Optional.
	Flags map[string]string
}

// Load reads the options. An unknown key or a bad value is an error of one line
// that names the key and where it was found.
func Load(s Sources) (Options, error) {
	o := Options{ConfigDir: s.ConfigDir, byKey: map[string]string{}}
	known := map[string]Key{}
	for _, k := range schema {
		known[k.Name] = k
		if err := o.set(k, k.Default); err != nil {
			return o, fmt.Errorf("default of %s: %w", k.Name, err)
		}
	}
	if err := o.loadDir(known, s.ConfigDir); err != nil {
		return o, err
	}
	if err := o.loadEnviron(known, s.Environ); err != nil {
		return o, err
	}
	for name, value := range s.Flags {
		k, ok := known[name]
		if !ok {
			return o, fmt.Errorf("flag --%s: %w", name, UnknownOption(name))
		}
		if err := o.set(k, value); err != nil {
			return o, fmt.Errorf("flag --%s: %w", name, err)
		}
	}
	return o, o.validate()
}

func (o *Options) set(k Key, value string) error {
	value = strings.TrimSpace(value)
	o.byKey[k.Name] = value
	return k.set(o, value)
}

func (o *Options) loadDir(known map[string]Key, dir string) error {
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || e.IsDir() { // a mounted ConfigMap keeps its versions in ..data
			continue
		}
		k, ok := known[name]
		if !ok {
			return fmt.Errorf("%s: %w", dir, UnknownOption(name))
		}
		value, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if err := o.set(k, string(value)); err != nil {
			return fmt.Errorf("%s/%s: %w", dir, name, err)
		}
	}
	return nil
}

func (o *Options) loadEnviron(known map[string]Key, environ []string) error {
	for _, line := range environ {
		variable, value, _ := strings.Cut(line, "=")
		if variable == "K8S_NODE_NAME" && o.NodeName == "" {
			o.NodeName = value
			o.byKey["node-name"] = value
		}
		rest, ok := strings.CutPrefix(variable, "STENTOR_")
		if !ok {
			continue
		}
		name := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		k, ok := known[name]
		if !ok {
			// Kubernetes sets such as STENTOR_PORT for a Service of that name: only
			// what is nearly an option is a mistake for certain.
			if near, d := nearest(name); d <= 2 && len(name) > 5 {
				return fmt.Errorf("%s: there is no option %q (did you mean %q?)", variable, name, near)
			}
			continue
		}
		if err := o.set(k, value); err != nil {
			return fmt.Errorf("%s: %w", variable, err)
		}
	}
	return nil
}

// UnknownOption is the error of one line for a name that no option has; nil if
// the schema has it.
func UnknownOption(name string) error {
	near, d := nearest(name)
	switch {
	case d == 0:
		return nil
	case d < 4:
		return fmt.Errorf("there is no option %q (did you mean %q?)", name, near)
	}
	return fmt.Errorf("there is no option %q", name)
}

// nearest is the option whose name is closest, and by how many letters.
func nearest(name string) (found string, letters int) {
	letters = len(name) + 1
	for _, k := range schema {
		if d := distance(k.Name, name); d < letters || d == letters && k.Name < found {
			letters, found = d, k.Name
		}
	}
	return found, letters
}

// distance counts the letters to change, add or drop to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// Explain writes the schema as a Markdown table: docs/reference/config.md.
func Explain(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Options\n\nKeys of the ConfigMap, flags (`--KEY`) and variables (`STENTOR_KEY`, upper case, `_` for `-`);\n" +
		"flags win over variables, variables over the ConfigMap. Written by `stentor agent --explain-config`.\n\n" +
		"| Key | Default | For | Meaning |\n|---|---|---|---|\n")
	for _, k := range schema {
		def := k.Default
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Name, def, k.For, k.Help)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
