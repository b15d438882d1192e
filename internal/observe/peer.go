// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/status"

	pb "github.com/stentor-net/stentor/api/peer"
)

// Peer is a node with an observer.
type Peer struct {
	Name       string // cluster/node; without the cluster if it is the default one
	Address    string // host:port
	ServerName string // in the certificate; "": no TLS
}

// PeerServer tells who else has an observer.
type PeerServer struct {
	pb.UnimplementedPeerServer
	// Peers gives all peers as they are now, and a channel that is closed when
	// that is no longer so.
	Peers func() ([]Peer, <-chan struct{})
}

// Notify tells all peers, then what changes.
func (s *PeerServer) Notify(_ *pb.NotifyRequest, out pb.Peer_NotifyServer) error {
	told := map[string]Peer{}
	for {
		peers, changed := s.Peers()
		now := make(map[string]Peer, len(peers))
		for _, p := range peers {
			now[p.Name] = p
		}
		for _, n := range changes(told, now) {
			if err := out.Send(n); err != nil {
				return err
			}
		}
		told = now
		select {
		case <-changed:
		case <-out.Context().Done():
			return status.FromContextError(out.Context().Err()).Err()
		}
	}
}

// changes are the notifications from one set of peers to another, in order of name.
func changes(before, now map[string]Peer) []*pb.ChangeNotification {
	var out []*pb.ChangeNotification
	tell := func(p Peer, kind pb.ChangeNotificationType) {
		n := &pb.ChangeNotification{Name: p.Name, Address: p.Address, Type: kind}
		if p.ServerName != "" {
			n.Tls = &pb.TLS{ServerName: p.ServerName}
		}
		out = append(out, n)
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		switch have, ok := before[name]; {
		case !ok:
			tell(now[name], pb.ChangeNotificationType_PEER_ADDED)
		case have != now[name]:
			tell(now[name], pb.ChangeNotificationType_PEER_UPDATED)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, ok := now[name]; !ok {
			tell(before[name], pb.ChangeNotificationType_PEER_DELETED)
		}
	}
	return out
}

// ServerName is the name that the certificate of a node's observer has to carry.
func ServerName(node, cluster string) string {
	dns := strings.NewReplacer(".", "-", "_", "-")
	return dns.Replace(node) + "." + dns.Replace(cluster) + ".hubble-grpc.cilium.io"
}
