// SPDX-License-Identifier: Apache-2.0

// Package chart_test checks the Helm chart as far as that goes without Helm.
package chart_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stentor-net/stentor/internal/agent"
)

type object = map[string]any

func read(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func values(t *testing.T) object {
	t.Helper()
	var out object
	if err := yaml.UnmarshalStrict(read(t, "values.yaml"), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func schema(t *testing.T) object {
	t.Helper()
	var out object
	if err := json.Unmarshal(read(t, "values.schema.json"), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// resolve follows a reference to a definition.
func resolve(root, s object) object {
	if ref, ok := s["$ref"].(string); ok {
		return root["definitions"].(object)[filepath.Base(ref)].(object)
	}
	return s
}

// compare checks that values and schema have the same names, at every level
// that the schema closes.
func compare(t *testing.T, root, s, v object, path string) {
	if s["additionalProperties"] != false {
		return
	}
	properties, _ := s["properties"].(object)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if _, ok := v[name]; !ok && path+name != "global" {
			t.Errorf("values.yaml lacks %s%s", path, name)
		}
	}
	for name, value := range v {
		property, ok := properties[name].(object)
		if !ok {
			t.Errorf("values.schema.json lacks %s%s", path, name)
			continue
		}
		if child, ok := value.(object); ok {
			compare(t, root, resolve(root, property), child, path+name+".")
		}
	}
}

func TestValuesAndSchemaHaveTheSameNames(t *testing.T) {
	s := schema(t)
	if s["additionalProperties"] != false {
		t.Error("unknown values are not refused")
	}
	compare(t, s, s, values(t), "")
}

func templates(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir("templates", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out[path] = string(read(t, path))
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("no templates: %v", err)
	}
	return out
}

func TestTemplatesUseNoValueThatDoesNotExist(t *testing.T) {
	v := values(t)
	reference := regexp.MustCompile(`\.Values((?:\.[A-Za-z0-9]+)+)`)
	for name, text := range templates(t) {
		for _, match := range reference.FindAllStringSubmatch(text, -1) {
			var node any = v
			for part := range strings.SplitSeq(strings.TrimPrefix(match[1], "."), ".") {
				parent, isObject := node.(object)
				next, exists := parent[part]
				if !isObject || !exists {
					t.Errorf("%s: .Values%s does not exist", name, match[1])
					break
				}
				node = next
			}
		}
	}
}

func TestEveryValueIsUsed(t *testing.T) {
	all := strings.Join(slices.Collect(maps.Values(templates(t))), "\n")
	for name := range values(t) {
		if !strings.Contains(all, "."+name) {
			t.Errorf("no template uses %s", name)
		}
	}
}

func TestTheConfigMapHoldsOnlyKeysThatTheAgentKnows(t *testing.T) {
	known := map[string]bool{}
	for _, k := range agent.Schema() {
		known[k.Name] = true
	}
	keys := regexp.MustCompile(`set \$config "([^"]+)"`).FindAllStringSubmatch(templates(t)["templates/config.yaml"], -1)
	if len(keys) < 30 {
		t.Errorf("only %d keys were found", len(keys))
	}
	for _, k := range keys {
		if !known[k[1]] {
			t.Errorf("the agent would refuse to start: there is no option %q", k[1])
		}
	}
}
