// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// configDir writes files as a mounted ConfigMap has them.
func configDir(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "..data"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFlagsWinOverVariablesAndVariablesOverTheConfigMap(t *testing.T) {
	dir := configDir(t, map[string]string{"cluster-name": "file\n", "mtu": "1400", "tunnel-port": "1", "ipv4-native-routing-cidr": "10.1.2.3/8"})
	o, err := Load(Sources{
		ConfigDir: dir,
		Environ:   []string{"K8S_NODE_NAME=n1", "STENTOR_MTU=1500", "STENTOR_TUNNEL_PORT=2", "STENTOR_PORT=tcp://10.96.0.5:80"},
		Flags:     map[string]string{"tunnel-port": "3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if o.ClusterName != "file" || o.MTU != 1500 || o.TunnelPort != 3 || o.NodeName != "n1" || o.NativeCIDR4.String() != "10.0.0.0/8" {
		t.Errorf("got %+v", o)
	}
}

func TestAnUnknownKeyOrABadValueIsOneClearLine(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"routing-mod", "tunnel", `there is no option "routing-mod" (did you mean "routing-mode"?)`},
		{"zzz", "1", `there is no option "zzz"`},
		{"routing-mode", "carrier-pigeon", `/routing-mode: "carrier-pigeon" is not one of tunnel, native`},
		{"enable-ipv4", "si", `/enable-ipv4: "si" is neither true nor false`},
		{"mtu", "9", "mtu: 9 is not within 1280..65535"},
		{"kube-proxy-replacement", "strict", `/kube-proxy-replacement: "strict" is neither true nor false`},
		{"node-port-range", "40000,30000", `node-port-range: "40000,30000" is not two ports`},
		{"bpf-lb-maglev-table-size", "1000", "bpf-lb-maglev-table-size: 1000 is not one of"},
		{"labels", "!(", "labels: label pattern"},
		{"enable-ipv4", "false", "enable-ipv4 and enable-ipv6 are both false"},
	} {
		_, err := Load(Sources{ConfigDir: configDir(t, map[string]string{c.key: c.value}), Environ: []string{"K8S_NODE_NAME=n"}})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s=%s: %v", c.key, c.value, err)
		}
	}
	if _, err := Load(Sources{}); err == nil || !strings.Contains(err.Error(), "node-name is empty") {
		t.Errorf("without a name: %v", err)
	}
	if _, err := Load(Sources{Flags: map[string]string{"nope": ""}}); err == nil {
		t.Error("an unknown flag was accepted")
	}
}

func TestTheDefaultOfEachKeyIsValidAndNamesAreUnique(t *testing.T) {
	if _, err := Load(Sources{Environ: []string{"K8S_NODE_NAME=n"}}); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{}
	for _, k := range Schema() {
		if seen[k.Name] || k.Help == "" || !strings.HasSuffix(k.Help, ".") {
			t.Errorf("%s: twice, or its help is not a sentence: %q", k.Name, k.Help)
		}
		seen[k.Name] = true
	}
}

func TestTheReferenceOfOptionsIsCurrent(t *testing.T) {
	const file = "../../docs/reference/config.md"
	var want bytes.Buffer
	if err := Explain(&want); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("STENTOR_UPDATE") != "" {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, want.Bytes()) {
		t.Errorf("%s is not what the schema says (%v): run STENTOR_UPDATE=1 go test ./internal/agent -run ReferenceOfOptions", file, err)
	}
}

func TestEveryKeyOfTheChartIsInTheSchema(t *testing.T) {
	content, err := os.ReadFile("../../deploy/chart/templates/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile(`set \$config "([^"]+)"`).FindAllStringSubmatch(string(content), -1)
	if len(keys) < 20 {
		t.Fatalf("only %d keys found in the chart", len(keys))
	}
	for _, k := range keys {
		if !slices.ContainsFunc(schema, func(s Key) bool { return s.Name == k[1] }) {
			t.Errorf("the chart sets %s, which the agent does not know", k[1])
		}
	}
}
