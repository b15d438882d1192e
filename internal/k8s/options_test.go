// SPDX-License-Identifier: Apache-2.0

package k8s_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/k8s"
)

func kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"one",
		"clusters":[{"name":"a","cluster":{"server":"https://one:6443"}},{"name":"b","cluster":{"server":"https://two:6443"}}],
		"contexts":[{"name":"one","context":{"cluster":"a","user":"u"}},{"name":"two","context":{"cluster":"b","user":"u"}}],
		"users":[{"name":"u","user":{"token":"t"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheAPIServerComesFromTheMostExplicitSource(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	path := kubeconfig(t)
	for name, c := range map[string]struct {
		options k8s.Options
		want    string
	}{
		"the current context":  {k8s.Options{Kubeconfig: path}, "https://one:6443"},
		"a named context":      {k8s.Options{Kubeconfig: path, Context: "two"}, "https://two:6443"},
		"a URL wins over both": {k8s.Options{Kubeconfig: path, Context: "two", APIServer: "https://three:6443"}, "https://three:6443"},
		"a URL alone will do":  {k8s.Options{APIServer: "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"},
	} {
		client, err := k8s.NewClient(c.options)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if client.Host() != c.want {
			t.Errorf("%s: %s", name, client.Host())
		}
	}
}

func TestAClientWithoutASourceSaysWhatToSet(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := k8s.NewClient(k8s.Options{}); !errors.Is(err, k8s.ErrNotInCluster) {
		t.Errorf("got %v", err)
	}
	if _, err := k8s.NewClient(k8s.Options{APIServer: "not a url"}); err == nil || !strings.Contains(err.Error(), "is not a URL") {
		t.Errorf("got %v", err)
	}
	if _, err := k8s.NewClient(k8s.Options{Kubeconfig: "/does/not/exist"}); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("got %v", err)
	}
}
