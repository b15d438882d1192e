// SPDX-License-Identifier: Apache-2.0

// Package pki makes the certificates, keys and kubeconfigs of a cluster.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Options name what the certificates are for.
type Options struct {
	Dir    string       // where the files go
	Server string       // URL of the API server, for the kubeconfigs of the cluster's own parts
	IPs    []netip.Addr // further addresses of the API server
	Nodes  []string     // node names, one kubelet kubeconfig each
}

func (o Options) validate() error {
	if o.Dir == "" || o.Server == "" {
		return fmt.Errorf("pki: folder and server are needed")
	}
	return nil
}

// Authority is a certificate authority that can write kubeconfigs.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Write makes everything anew in o.Dir: ca, front-proxy-ca, apiserver,
// kubelet-client, front-proxy-client, the service accounts' key (sa) and
// NAME.kubeconfig for controller-manager, scheduler, kube-proxy and
// kubelet-NODE. Every file is readable by the owner alone.
func Write(o Options) (*Authority, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	root, err := newAuthority("kubernetes")
	if err != nil {
		return nil, err
	}
	front, err := newAuthority("front-proxy")
	if err != nil {
		return nil, err
	}
	rootKey, err := keyPEM(root.key)
	if err != nil {
		return nil, err
	}
	w := writer{dir: o.Dir}
	w.file("ca.crt", root.pem)
	w.file("ca.key", rootKey)
	w.file("front-proxy-ca.crt", front.pem)
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for _, a := range o.IPs {
		ips = append(ips, a.AsSlice())
	}
	w.pair("apiserver", root, subject{cn: "kube-apiserver", ips: ips, dns: []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}})
	w.pair("kubelet-client", root, subject{cn: "kube-apiserver-kubelet-client", orgs: []string{"system:masters"}})
	w.pair("front-proxy-client", front, subject{cn: "front-proxy-client"})
	w.serviceAccountKey()
	clients := map[string]subject{
		"controller-manager": {cn: "system:kube-controller-manager"},
		"scheduler":          {cn: "system:kube-scheduler"},
		"kube-proxy":         {cn: "system:kube-proxy"},
	}
	for _, n := range o.Nodes {
		clients["kubelet-"+n] = subject{cn: "system:node:" + n, orgs: []string{"system:nodes"}}
	}
	for name, s := range clients {
		if w.err == nil {
			w.err = root.kubeconfig(filepath.Join(o.Dir, name+".kubeconfig"), "lab", o.Server, s)
		}
	}
	return root, w.err
}

// WriteAdminKubeconfig writes a kubeconfig with all rights, whose context is
// called name.
func (a *Authority) WriteAdminKubeconfig(path, name, server string) error {
	return a.kubeconfig(path, name, server, subject{cn: "admin", orgs: []string{"system:masters"}})
}

type subject struct {
	cn   string
	orgs []string
	dns  []string
	ips  []net.IP
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) }

func newAuthority(cn string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	n, err := serial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: cn},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert: cert, key: key, pem: block("CERTIFICATE", der)}, nil
}

// issue makes a key and a certificate for it, valid for a year.
func (a *Authority) issue(s subject) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	n, err := serial()
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: s.cn, Organization: s.orgs},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    s.dns, IPAddresses: s.ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, k.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate for %s: %w", s.cn, err)
	}
	key, err = keyPEM(k)
	return block("CERTIFICATE", der), key, err
}

const kubeconfigTemplate = `apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
contexts:
- name: %[1]s
  context: {cluster: %[1]s, user: %[1]s}
current-context: %[1]s
`

func (a *Authority) kubeconfig(path, name, server string, s subject) error {
	cert, key, err := a.issue(s)
	if err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(kubeconfigTemplate, name, server, b64(a.pem), b64(cert), b64(key))
	return os.WriteFile(path, []byte(text), 0o600)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func keyPEM(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, err
	}
	return block("EC PRIVATE KEY", der), nil
}

// writer writes files until the first error.
type writer struct {
	dir string
	err error
}

func (w *writer) file(name string, b []byte) {
	if w.err == nil {
		w.err = os.WriteFile(filepath.Join(w.dir, name), b, 0o600)
	}
}

func (w *writer) pair(name string, a *Authority, s subject) {
	if w.err != nil {
		return
	}
	cert, key, err := a.issue(s)
	w.err = err
	w.file(name+".crt", cert)
	w.file(name+".key", key)
}

func (w *writer) serviceAccountKey() {
	if w.err != nil {
		return
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.err = err
		return
	}
	key, err := keyPEM(k)
	if err != nil {
		w.err = err
		return
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		w.err = err
		return
	}
	w.file("sa.key", key)
	w.file("sa.pub", block("PUBLIC KEY", der))
}
