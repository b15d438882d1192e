// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/api/peer"
)

// Listen says where an observer answers. Each place is optional.
type Listen struct {
	Socket string      // path of a unix socket, for those who may enter its folder
	Addr   string      // host:port
	TLS    *tls.Config // of Addr; nil: plain text
}

// Limits of one client.
const (
	streamsPerClient = 256
	stopWithin       = 2 * time.Second // for streams that are still open
)

// Serve answers until ctx ends. o and p are registered where they are not nil.
func Serve(ctx context.Context, l Listen, o observer.ObserverServer, p peer.PeerServer) error {
	var servers []*grpc.Server
	failed := make(chan error, 2)
	start := func(network, addr string, opts ...grpc.ServerOption) error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		listener, err := lc.Listen(ctx, network, addr)
		if err != nil {
			return fmt.Errorf("listen for observers: %w", err)
		}
		s := newServer(o, p, opts...)
		servers = append(servers, s)
		go func() { failed <- s.Serve(listener) }()
		return nil
	}
	defer func() {
		for _, s := range servers {
			stop(s)
		}
	}()
	if l.Socket != "" {
		if err := os.Remove(l.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("listen for observers: %w", err)
		}
		if err := start("unix", l.Socket); err != nil {
			return err
		}
		if err := os.Chmod(l.Socket, 0o660); err != nil {
			return fmt.Errorf("listen for observers: %w", err)
		}
	}
	if l.Addr != "" {
		var opts []grpc.ServerOption
		if l.TLS != nil {
			opts = append(opts, grpc.Creds(credentials.NewTLS(l.TLS)))
		}
		if err := start("tcp", l.Addr, opts...); err != nil {
			return err
		}
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve observers: %w", err)
	case <-ctx.Done():
		return nil
	}
}

func newServer(o observer.ObserverServer, p peer.PeerServer, opts ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(append(opts, grpc.MaxConcurrentStreams(streamsPerClient),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))...)
	state := health.NewServer()
	healthpb.RegisterHealthServer(s, state)
	if o != nil {
		observer.RegisterObserverServer(s, o)
		state.SetServingStatus(observer.Observer_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	if p != nil {
		peer.RegisterPeerServer(s, p)
		state.SetServingStatus(peer.Peer_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	return s
}

// stop gives open requests a moment, then ends them.
func stop(s *grpc.Server) {
	done := make(chan struct{})
	go func() { s.GracefulStop(); close(done) }()
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		s.Stop()
	}
}
