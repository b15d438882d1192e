// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

func testSpec(t *testing.T) *Spec {
	t.Helper()
	dir := t.TempDir()
	pki := filepath.Join(dir, "pki")
	for _, d := range []string{pki, filepath.Join(dir, "n/etc/kubernetes"), filepath.Join(dir, "n/etc/containerd")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"ca.crt", "kubelet-node1.kubeconfig", "kube-proxy.kubeconfig"} {
		if err := os.WriteFile(filepath.Join(pki, f), []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Spec{
		Name: "node1", Dir: filepath.Join(dir, "n"), PKIDir: pki, KubeProxy: "nftables",
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
		DNS:      []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")},
		Hosts:    map[string]string{"node2": "172.30.0.12,fd00:30::12", "fabric": "172.30.0.1"},
	}
}

// load reads a written configuration back.
func load(t *testing.T, s *Spec, name string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "etc/kubernetes", name))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := yaml.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAKubeletRestartsCrashedContainersWithinASecond(t *testing.T) {
	s := testSpec(t)
	if err := writeConfig(s); err != nil {
		t.Fatal(err)
	}
	k := load(t, s, "kubelet.yaml")
	if got := k["crashLoopBackOff"].(map[string]any)["maxContainerRestartPeriod"]; got != time.Second.String() {
		t.Errorf("restart period is %v, want 1s", got)
	}
	if got := k["clusterDNS"].([]any); len(got) != 1 || got[0] != "10.96.0.10" {
		t.Errorf("cluster DNS is %v, want the address of the first family alone", got)
	}
}

func TestKubeProxyKnowsThePodsOfBothFamilies(t *testing.T) {
	s := testSpec(t)
	if err := writeConfig(s); err != nil {
		t.Fatal(err)
	}
	p := load(t, s, "kube-proxy.yaml")
	if p["clusterCIDR"] != "10.244.0.0/16,fd00:10:244::/56" || p["mode"] != "nftables" || p["hostnameOverride"] != "node1" {
		t.Errorf("got %v", p)
	}
}

func TestWithoutKubeProxyThereIsNoConfigurationForIt(t *testing.T) {
	s := testSpec(t)
	s.KubeProxy = "none"
	if err := writeConfig(s); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "etc/kubernetes/kube-proxy.yaml")); !os.IsNotExist(err) {
		t.Errorf("kube-proxy.yaml: %v, want that it does not exist", err)
	}
}

func TestHostsHaveAllAddressesOfAMachine(t *testing.T) {
	got := hostsFile(testSpec(t))
	for _, want := range []string{"172.30.0.12 node2\n", "fd00:30::12 node2\n", "172.30.0.1 fabric\n", "127.0.0.1 localhost\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestImagesAreImportedOnlyWhenTheNodeSaysSo(t *testing.T) {
	s := testSpec(t)
	if ok, err := s.Imported(); ok || err != nil {
		t.Errorf("before: %v %v, want false", ok, err)
	}
	mark := filepath.Join(s.Dir, importedFile)
	if err := os.MkdirAll(filepath.Dir(mark), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Imported(); !ok || err != nil {
		t.Errorf("after: %v %v, want true", ok, err)
	}
	if err := os.WriteFile(mark, []byte("broken.tar: exit status 1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Imported(); err == nil || !strings.Contains(err.Error(), "node1: import images: broken.tar") {
		t.Errorf("after a failure: %v, want an error that names node and archive", err)
	}
}

func TestANodesSpecIsReadBackAsWritten(t *testing.T) {
	s := testSpec(t)
	if got, err := ReadSpec(s.Dir); err == nil {
		t.Errorf("a folder without a spec gives %v, want an error", got)
	}
	if err := s.write(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSpec(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, s) {
		t.Errorf("got %+v, want %+v", got, s)
	}
}
