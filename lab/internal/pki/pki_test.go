// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func write(t *testing.T) (string, *Authority) {
	t.Helper()
	dir := t.TempDir()
	ca, err := Write(Options{
		Dir: dir, Server: "https://172.30.0.1:6443", Nodes: []string{"node1"},
		IPs: []netip.Addr{netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("fd00:30::1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, ca
}

func certificate(t *testing.T, b []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatal("no PEM block")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheAPIServersCertificateIsGoodForAllItsNames(t *testing.T) {
	dir, ca := write(t)
	b, err := os.ReadFile(filepath.Join(dir, "apiserver.crt"))
	if err != nil {
		t.Fatal(err)
	}
	c := certificate(t, b)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	for _, name := range []string{"172.30.0.1", "fd00:30::1", "127.0.0.1", "::1", "kubernetes.default.svc", "localhost"} {
		if _, err := c.Verify(x509.VerifyOptions{Roots: pool, DNSName: bracket(name)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func bracket(name string) string {
	if a, err := netip.ParseAddr(name); err == nil && a.Is6() {
		return "[" + name + "]"
	}
	return name
}

func TestAKubeletsKubeconfigSaysWhichNodeItIs(t *testing.T) {
	dir, _ := write(t)
	b, err := os.ReadFile(filepath.Join(dir, "kubelet-node1.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`client-certificate-data: (\S+)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no certificate in\n%s", b)
	}
	raw, err := base64.StdEncoding.DecodeString(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	c := certificate(t, raw)
	if c.Subject.CommonName != "system:node:node1" || len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject is %s, want system:node:node1 of system:nodes", c.Subject)
	}
}

func TestKeysAreForTheirOwnerAlone(t *testing.T) {
	dir, _ := write(t)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", e.Name(), info.Mode().Perm())
		}
	}
	if len(entries) < 12 {
		t.Errorf("only %d files were written", len(entries))
	}
}
