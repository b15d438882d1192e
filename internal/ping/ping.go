// SPDX-License-Identifier: Apache-2.0

// Package ping asks hosts for an ICMP echo.
package ping

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Again is how long a request gets before another one follows: networks may lose
// one now and then.
const Again = 700 * time.Millisecond

// Echo sends ICMP echo requests of size bytes until one is answered or ctx
// ends. It needs CAP_NET_RAW.
func Echo(ctx context.Context, dst netip.Addr, size int) error {
	network, proto := "ip4:icmp", 1
	var ask, reply icmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if dst.Is6() {
		network, proto = "ip6:ipv6-icmp", 58
		ask, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, "")
	if err != nil {
		return fmt.Errorf("open a raw socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	id := rand.IntN(1 << 16)
	data := make([]byte, max(size, 8))
	binary.NativeEndian.PutUint64(data, rand.Uint64())
	buf := make([]byte, 1<<16)
	for seq := 1; ; seq++ {
		msg, err := (&icmp.Message{Type: ask, Body: &icmp.Echo{ID: id, Seq: seq, Data: data}}).Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(msg, &net.IPAddr{IP: dst.AsSlice(), Zone: dst.Zone()}); err != nil {
			return err
		}
		again := time.Now().Add(Again)
		_ = conn.SetReadDeadline(again)
		for {
			n, _, err := conn.ReadFrom(buf)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			m, err := icmp.ParseMessage(proto, buf[:n])
			if err != nil || m.Type != reply {
				continue
			}
			if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && bytes.Equal(e.Data, data) {
				return nil
			}
		}
	}
}
