// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pingReport is what ping prints with -json; times in milliseconds.
type pingReport struct {
	Host     string  `json:"host"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	MinMS    float64 `json:"minMs"`
	MaxMS    float64 `json:"maxMs"`
}

func (r *pingReport) add(ms float64) {
	r.Received++
	if r.MinMS == 0 || ms < r.MinMS {
		r.MinMS = ms
	}
	r.MaxMS = max(r.MaxMS, ms)
}

func runPing(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("ping", flag.ContinueOnError)
	count := fs.Int("c", 3, "how many")
	interval := fs.Duration("i", 200*time.Millisecond, "between two")
	wait := fs.Duration("W", time.Second, "for each answer")
	size := fs.Int("s", 56, "bytes of data")
	asJSON := fs.Bool("json", false, "print a report in JSON")
	v4, v6 := fs.Bool("4", false, "IPv4 only"), fs.Bool("6", false, "IPv6 only")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if fs.NArg() != 1 {
		return exitCode{2, errors.New("want one HOST")}
	}
	network := "ip"
	if *v4 {
		network = "ip4"
	} else if *v6 {
		network = "ip6"
	}
	dst, err := net.ResolveIPAddr(network, fs.Arg(0))
	if err != nil {
		return exitCode{exitResolve, err}
	}
	p, err := newPinger(dst, *size)
	if err != nil {
		return err
	}
	defer p.conn.Close()
	rep := pingReport{Host: dst.String()}
	for seq := 1; seq <= *count && ctx.Err() == nil; seq++ {
		rep.Sent++
		rtt, err := p.once(seq, *wait)
		if err == nil {
			rep.add(rtt.Seconds() * 1000)
		}
		if !*asJSON {
			if err != nil {
				fmt.Printf("seq %d: %v\n", seq, err)
			} else {
				fmt.Printf("seq %d: answer from %s in %.2f ms\n", seq, dst, rtt.Seconds()*1000)
			}
		}
		if seq < *count {
			select {
			case <-time.After(*interval):
			case <-ctx.Done():
			}
		}
	}
	if *asJSON {
		if err := printJSON(rep); err != nil {
			return err
		}
	}
	if rep.Received == 0 {
		return fmt.Errorf("%d sent, none answered", rep.Sent)
	}
	return nil
}

type pinger struct {
	conn  *icmp.PacketConn
	dst   *net.IPAddr
	id    int
	proto int
	kind  icmp.Type
	reply icmp.Type
	data  []byte
}

func newPinger(dst *net.IPAddr, size int) (*pinger, error) {
	p := &pinger{dst: dst, id: rand.IntN(1 << 16), data: make([]byte, size)}
	network := "ip4:icmp"
	p.proto, p.kind, p.reply = 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if dst.IP.To4() == nil {
		network = "ip6:ipv6-icmp"
		p.proto, p.kind, p.reply = 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	var err error
	p.conn, err = icmp.ListenPacket(network, "")
	if err != nil {
		return nil, fmt.Errorf("open raw socket (CAP_NET_RAW is needed): %w", err)
	}
	return p, nil
}

func (p *pinger) once(seq int, wait time.Duration) (time.Duration, error) {
	msg := icmp.Message{Type: p.kind, Body: &icmp.Echo{ID: p.id, Seq: seq, Data: p.data}}
	b, err := msg.Marshal(nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := p.conn.WriteTo(b, p.dst); err != nil {
		return 0, err
	}
	if err := p.conn.SetReadDeadline(start.Add(wait)); err != nil {
		return 0, err
	}
	buf := make([]byte, 65536)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if err != nil {
			return 0, fmt.Errorf("no answer: %w", err)
		}
		m, err := icmp.ParseMessage(p.proto, buf[:n])
		if err != nil || m.Type != p.reply {
			continue
		}
		e, ok := m.Body.(*icmp.Echo)
		if ok && e.ID == p.id && e.Seq == seq && from.(*net.IPAddr).IP.Equal(p.dst.IP) {
			return time.Since(start), nil
		}
	}
}
