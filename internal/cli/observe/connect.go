// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// tlsFlags say how --server is reached.
type tlsFlags struct {
	on, skipVerify           bool
	serverName               string
	cas                      []string
	clientCert, clientKeyPEM string
}

func (t *tlsFlags) addTo(flags *pflag.FlagSet) {
	flags.BoolVar(&t.on, "tls", false, "speak TLS with --server")
	flags.BoolVar(&t.skipVerify, "tls-allow-insecure", false, "take any certificate")
	flags.StringVar(&t.serverName, "tls-server-name", "", "name in the certificate, if it is not the host's")
	flags.StringSliceVar(&t.cas, "tls-ca-cert-files", nil, "authorities (PEM) instead of the system's")
	flags.StringVar(&t.clientCert, "tls-client-cert-file", "", "certificate to show (PEM)")
	flags.StringVar(&t.clientKeyPEM, "tls-client-key-file", "", "its key (PEM)")
}

func (t *tlsFlags) credentials(address string) (credentials.TransportCredentials, error) {
	if !t.on && !strings.HasPrefix(address, "tls://") {
		return insecure.NewCredentials(), nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: t.serverName, InsecureSkipVerify: t.skipVerify}
	if len(t.cas) > 0 {
		c.RootCAs = x509.NewCertPool()
		for _, file := range t.cas {
			raw, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			if !c.RootCAs.AppendCertsFromPEM(raw) {
				return nil, fmt.Errorf("%s: no certificate in it", file)
			}
		}
	}
	if t.clientCert != "" || t.clientKeyPEM != "" {
		pair, err := tls.LoadX509KeyPair(t.clientCert, t.clientKeyPEM)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c), nil
}

// connect finds the observers that are meant: --server, this node's agent, or
// all agents of the cluster through its API server.
func connect(ctx context.Context, f *command.Factory, o *Options) ([]server, error) {
	if a := o.serverAddress; a != "" {
		creds, err := o.tls.credentials(a)
		if err != nil {
			return nil, err
		}
		target := strings.TrimPrefix(strings.TrimPrefix(a, "tls://"), "tcp://")
		if !strings.HasPrefix(target, "unix:") {
			target = "dns:///" + target
		}
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
		if err != nil {
			return nil, fmt.Errorf("--server %s: %w", a, err)
		}
		return []server{{name: a, conn: conn}}, nil
	}
	if !f.Remote() {
		s, err := over("this node", client.Socket(filepath.Join(filepath.Dir(f.Socket()), rest.FlowSocket)))
		return []server{s}, err
	}
	cluster, err := f.Cluster()
	if err != nil {
		return nil, err
	}
	agents, err := cluster.Agents(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the agents: %w", err)
	}
	var out []server
	for _, a := range agents {
		if !a.Running || f.Node() != "" && a.Node != f.Node() {
			continue
		}
		s, err := over("node "+a.Node, func(ctx context.Context) (net.Conn, error) { return cluster.Dial(ctx, a, "--flows") })
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	switch {
	case len(out) > 0:
		return out, nil
	case f.Node() != "":
		return nil, fmt.Errorf("no agent runs on node %s", f.Node())
	}
	return nil, fmt.Errorf("no agent runs in namespace %s: is Stentor installed there?", cluster.Namespace())
}

// over makes an observer of a way to connect.
func over(name string, dial client.Dial) (server, error) {
	conn, err := grpc.NewClient("passthrough:///observer", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		return server{}, fmt.Errorf("%s: %w", name, err)
	}
	return server{name: name, conn: conn}, nil
}
