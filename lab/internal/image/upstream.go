// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// Upstream are the images, as Build knows them, that the specs of Kubernetes'
// network suite run. They are made of the suite's own programs and Debian's
// tools, and carry the names that the specs ask for.
var Upstream = []string{agnhost.name, boom.name, upstreamPause}

// UpstreamNames are all names of those images.
func UpstreamNames() []string {
	var out []string
	for _, n := range Upstream {
		if r, ok := find(n); ok {
			out = append(out, r.names()...)
		}
	}
	return out
}

const (
	upstreamRegistry = "registry.k8s.io/e2e-test-images/"
	upstreamPause    = "registry.k8s.io/pause:3.10.2"
)

// agnhost is the suite's program for nearly everything, with the tools that
// specs call beside it. Its tools are glibc's, as the DNS specs' second image
// wants, and busybox is one of them.
var agnhost = recipe{
	name:     upstreamRegistry + "agnhost:2.63.0",
	aliases:  []string{upstreamRegistry + "glibc-dns-testing:2.0.0", upstreamRegistry + "busybox:1.37.0-1"},
	binaries: []string{"agnhost"},
	packages: append([]string{"bind9-dnsutils", "coreutils", "hostname", "iperf", "libc-bin", "wget"}, appPackages...),
	links:    map[string]string{"agnhost": "usr/bin/agnhost", "usr/bin/nc": "nc.openbsd", "usr/bin/sh": "bash", "usr/local/bin/iperf": "/usr/bin/iperf"},
	extra:    agnhostFiles,
	config:   Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{"PATH=" + containerPath}},
}

// boom is the server that answers with packets out of its window.
var boom = recipe{
	name:     upstreamRegistry + "regression-issue-74839:1.4",
	binaries: []string{"regression-issue-74839"},
	config:   Config{Entrypoint: []string{"/usr/bin/regression-issue-74839"}},
}

const containerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// agnhostFiles are the folder for uploads and the certificate that agnhost
// serves TLS with, for which nobody asks who signed it.
func agnhostFiles(w *layerWriter) error {
	if err := w.dir("uploads", 0o755); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	signed, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		"localhost.crt": {Type: "CERTIFICATE", Bytes: signed},
		"localhost.key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := w.text(name, string(pem.EncodeToMemory(block))); err != nil {
			return err
		}
	}
	return nil
}
