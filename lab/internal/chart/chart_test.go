// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var labValues = map[string]any{
	"k8sServiceHost": "172.30.0.1", "k8sServicePort": 6443,
	"image":          map[string]any{"repository": "stentor", "tag": "dev", "useDigest": false},
	"podAnnotations": map[string]any{"any": "thing"},
	"ipam":           map[string]any{"mode": "cluster-pool", "operator": map[string]any{"clusterPoolIPv4PodCIDRList": []any{"10.244.0.0/16"}}},
	"routingMode":    "tunnel",
}

func options(t *testing.T) Options {
	t.Helper()
	return Options{Dir: "testdata/small", Release: "r", Namespace: "n", Values: labValues}
}

func TestChartGetsTheValuesOfTheLabThatItKnows(t *testing.T) {
	got, err := Render(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"name: r-config", "namespace: n", `api: "172.30.0.1:6443"`, `image: "stentor:dev"`, `ipam: "cluster-pool"`,
		`pool: "10.244.0.0/16"`, `{"any":"thing"}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func TestValuesThatTheChartDoesNotKnowAreNamed(t *testing.T) {
	_, _, unknown, err := load(options(t))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"image.useDigest", "routingMode"}; !slices.Equal(unknown, want) {
		t.Errorf("unknown values %v, want %v", unknown, want)
	}
}

func TestAPersonsValuesWinAndAreChecked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte("k8sServiceHost: from-file\nimage: {tag: from-file}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Files, o.Set = []string{file}, []string{"image.tag=from-set"}
	got, err := Render(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`api: "from-file:6443"`, `image: "stentor:from-set"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	o.Set = []string{"nonsense=1"}
	if _, err := Render(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a value against the schema gives %v, want an error that names it", err)
	}
}
