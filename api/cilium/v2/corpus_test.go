// SPDX-License-Identifier: Apache-2.0

package v2

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	kjson "sigs.k8s.io/json"
)

// corpusFile is what this test reads of a verdict corpus.
type corpusFile struct {
	Policy   json.RawMessage
	Policies []json.RawMessage
}

// corpusDir finds the policy corpora in a folder `shared` beside the project
// or above it.
func corpusDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		candidate := filepath.Join(dir, "shared", "data", "policy")
		if _, err := os.Stat(candidate); err == nil {
			return candidate
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Skip("no shared/data/policy beside the project: corpus skipped")
		}
		dir = parent
	}
}

func TestEveryPolicyOfTheCorporaSurvivesAJSONRoundTrip(t *testing.T) {
	root := corpusDir(t)
	count := 0
	for _, set := range []string{"random", "real"} {
		files, err := filepath.Glob(filepath.Join(root, set, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var file corpusFile
			if err := json.Unmarshal(raw, &file); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			policies := file.Policies
			if file.Policy != nil {
				policies = append(policies, file.Policy)
			}
			for _, policy := range policies {
				if roundTrip(t, filepath.Base(name), policy) {
					count++
				}
			}
		}
	}
	if count < 600 {
		t.Errorf("only %d policies were checked", count)
	}
}

// roundTrip decodes and encodes one policy and reports whether it is of our
// kinds.
func roundTrip(t *testing.T, name string, raw []byte) bool {
	t.Helper()
	var head struct{ Kind string }
	if err := json.Unmarshal(raw, &head); err != nil {
		t.Fatal(err)
	}
	var object any
	switch head.Kind {
	case "CiliumNetworkPolicy":
		object = &CiliumNetworkPolicy{}
	case "CiliumClusterwideNetworkPolicy":
		object = &CiliumClusterwideNetworkPolicy{}
	default:
		return false
	}
	// As the API server does it: names are case-sensitive, unknown fields are
	// dropped and reported.
	unknown, err := kjson.UnmarshalStrict(raw, object)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return true
	}
	var kept any
	if err := json.Unmarshal(raw, &kept); err != nil {
		t.Fatal(err)
	}
	for _, report := range unknown {
		field := unknownField(t, report)
		if !slices.Contains(strayFields, field[len(field)-1]) {
			t.Errorf("%s: %v", name, report)
		}
		drop(kept, field)
	}
	encoded, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	pruned, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	want, got := canonical(t, pruned), canonical(t, encoded)
	if !bytes.Equal(want, got) {
		t.Errorf("%s changed:\nwant %s\n got %s", name, want, got)
	}
	return true
}

// strayFields are mistakes in the manifests of the corpora, and one field that
// only a proposal had.
var strayFields = []string{"description", "piVersion", "HTTP", "auth"}

// unknownField splits `unknown field "spec.ingress[0].auth"`.
func unknownField(t *testing.T, report error) []string {
	t.Helper()
	_, path, ok := strings.Cut(report.Error(), `unknown field "`)
	if !ok {
		t.Fatalf("unexpected report: %v", report)
	}
	path = strings.TrimSuffix(path, `"`)
	return strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune(".[]", r) })
}

// drop removes the field at the path from decoded JSON.
func drop(value any, path []string) {
	for len(path) > 1 {
		switch node := value.(type) {
		case map[string]any:
			value = node[path[0]]
		case []any:
			index, _ := strconv.Atoi(path[0])
			value = node[index]
		}
		path = path[1:]
	}
	delete(value.(map[string]any), path[0])
}

// canonical is JSON with sorted keys, without empty strings
// (a null in a map of strings is one).
func canonical(t *testing.T, raw []byte) []byte {
	t.Helper()
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		t.Fatal(err)
	}
	dropEmpty(value)
	out, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func dropEmpty(value any) {
	switch node := value.(type) {
	case map[string]any:
		for key, member := range node {
			if member == "" || member == nil {
				delete(node, key)
			}
			dropEmpty(member)
		}
	case []any:
		for _, member := range node {
			dropEmpty(member)
		}
	}
}
