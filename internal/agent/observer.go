// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	flowpb "github.com/stentor-net/stentor/api/flow"
	observerpb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/flow"
	"github.com/stentor-net/stentor/internal/observe"
)

// observer keeps the flows of the node and serves them.
type observer struct {
	opts     Options
	tables   *tables
	recorder *recorder
	server   *observe.Server
}

func newObserver(o Options, t *tables) *observer {
	v := &observer{opts: o, tables: t}
	ring := flow.NewRing(o.FlowBuffer)
	wire := &flow.Wire{Node: nodeName(o.ClusterName, o.NodeName), Emitter: &flowpb.Emitter{Name: "stentor", Version: o.Version}, Interface: newInterfaces().name}
	v.server = &observe.Server{Ring: ring, Wire: wire, Cluster: o.ClusterName, Version: o.Version, Started: time.Now()}
	if o.FlowListen != "" && !o.FlowPlain {
		v.server.TLS = &observerpb.TLS{Enabled: true, ServerName: observe.ServerName(o.NodeName, o.ClusterName)}
	}
	v.recorder = newRecorder(ring, newNamer(t, o.ClusterName))
	v.recorder.seen = v.server.Seen
	return v
}

// nodeName is how flows name a node.
func nodeName(cluster, node string) string {
	if cluster == "" {
		cluster = "default"
	}
	return cluster + "/" + node
}

// Run serves until ctx ends.
func (v *observer) Run(ctx context.Context) error {
	l := observe.Listen{Socket: v.opts.FlowSocket, Addr: v.opts.FlowListen}
	if l.Addr != "" && !v.opts.FlowPlain {
		t, err := serverTLS(v.opts.FlowCert, v.opts.FlowKey, v.opts.FlowClientCAs)
		if err != nil {
			return fmt.Errorf("flows on %s: %w", l.Addr, err)
		}
		l.TLS = t
	}
	if l.Socket == "" {
		l.Socket = filepath.Join(filepath.Dir(v.opts.SocketPath), rest.FlowSocket)
	}
	if err := os.MkdirAll(filepath.Dir(l.Socket), 0o755); err != nil {
		return fmt.Errorf("flows: %w", err)
	}
	return observe.Serve(ctx, l, v.server, &observe.PeerServer{Peers: v.peers})
}

// peers are the observers of all nodes.
func (v *observer) peers() ([]observe.Peer, <-chan struct{}) {
	changed := v.tables.nodes.Changed()
	_, port, err := net.SplitHostPort(v.opts.FlowListen)
	if err != nil {
		return nil, changed // this node's observer is not reached from elsewhere, nor are the others
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, changed
	}
	var out []observe.Peer
	for _, n := range v.tables.nodes.Snapshot().All() {
		ip := n.Underlay()
		if !ip.IsValid() {
			continue
		}
		p := observe.Peer{Name: nodeName(v.opts.ClusterName, n.Name), Address: netip.AddrPortFrom(ip, uint16(number)).String()}
		if !v.opts.FlowPlain {
			p.ServerName = observe.ServerName(n.Name, v.opts.ClusterName)
		}
		out = append(out, p)
	}
	return out, changed
}

// serverTLS asks clients for a certificate where there is an authority that
// vouches for them. The files are read again for each connection, so that
// certificates can be renewed.
func serverTLS(cert, key, clientCAs string) (*tls.Config, error) {
	load := func() (*tls.Config, error) {
		if cert == "" || key == "" {
			return nil, errors.New("a certificate and its key are needed: set hubble-tls-cert-file and hubble-tls-key-file, or hubble-disable-tls")
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		c := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
		if clientCAs != "" {
			raw, err := os.ReadFile(clientCAs)
			if err != nil {
				return nil, err
			}
			c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
			if !c.ClientCAs.AppendCertsFromPEM(raw) {
				return nil, fmt.Errorf("%s: no certificate in it", clientCAs)
			}
		}
		return c, nil
	}
	first, err := load()
	if err != nil {
		return nil, err
	}
	first.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return load() }
	return first, nil
}

// interfaces remembers the names of the node's devices.
type interfaces struct {
	mu    sync.Mutex
	names map[uint32]string
}

func newInterfaces() *interfaces { return &interfaces{names: map[uint32]string{}} }

// interfacesMax devices are remembered, then all are looked at again: indices are not used twice soon.
const interfacesMax = 8192

func (i *interfaces) name(index uint32) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if name, ok := i.names[index]; ok {
		return name
	}
	if len(i.names) >= interfacesMax {
		clear(i.names)
	}
	name := ""
	if d, err := net.InterfaceByIndex(int(index)); err == nil {
		name = d.Name
	}
	i.names[index] = name
	return name
}
