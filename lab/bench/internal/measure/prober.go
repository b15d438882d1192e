// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// prober sends a numbered datagram every millisecond from one pod of this node
// to another, and knows of each whether it arrived.
type prober struct {
	from, to net.PacketConn
	target   *net.UDPAddr
	mu       sync.Mutex
	sent     []int64 // ns since 1970
	arrived  [probeMost]atomic.Bool
	stop     chan struct{}
	done     sync.WaitGroup
}

const (
	probeEvery   = time.Millisecond
	probeMost    = 600_000 // ten minutes
	probeDecided = 20 * time.Millisecond
	probePort    = 9999
	// probeRun is how many packets in a row must have changed: one alone may be lost otherwise.
	probeRun = 5
)

// startProbe opens the sockets in the pods with the addresses From and To.
func (n *onNode) startProbe(r request) (answer, error) {
	if n.probe != nil {
		n.probe.end()
	}
	p := &prober{stop: make(chan struct{})}
	open := func(text string, port int) (net.PacketConn, error) {
		file, err := spaceOf(text)
		if err != nil {
			return nil, err
		}
		var c net.PacketConn
		err = ownThread(func() error {
			ns, err := os.Open(file)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			// Room for seconds: what a busy machine makes late is not lost.
			lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
				if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) }); cerr != nil {
					return cerr
				}
				return err
			}}
			c, err = lc.ListenPacket(context.Background(), "udp", net.JoinHostPort(text, fmt.Sprint(port)))
			return err
		})
		return c, err
	}
	var err error
	if p.from, err = open(r.From, 0); err != nil {
		return answer{}, err
	}
	if p.to, err = open(r.To, probePort); err != nil {
		p.from.Close()
		return answer{}, err
	}
	p.target = net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(r.To), probePort))
	p.done.Go(p.receive)
	p.done.Go(p.send)
	n.probe = p
	return answer{}, nil
}

// spaceOf finds the network namespace that has the address.
func spaceOf(addr string) (string, error) {
	want, err := netip.ParseAddr(addr)
	if err != nil {
		return "", err
	}
	files, _ := filepath.Glob("/run/netns/*")
	for _, file := range files {
		found := false
		err := ownThread(func() error {
			ns, err := os.Open(file)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			list, err := net.InterfaceAddrs()
			found = slices.ContainsFunc(list, func(a net.Addr) bool {
				p, err := netip.ParsePrefix(a.String())
				return err == nil && p.Addr() == want
			})
			return err
		})
		if err == nil && found {
			return file, nil
		}
	}
	return "", fmt.Errorf("no pod of this node has the address %s", addr)
}

func (p *prober) send() {
	b := make([]byte, 16)
	next := time.Now()
	for i := range probeMost {
		next = next.Add(probeEvery)
		select {
		case <-p.stop:
			return
		case <-time.After(time.Until(next)):
		}
		binary.BigEndian.PutUint64(b, uint64(i))
		p.mu.Lock()
		p.sent = append(p.sent, time.Now().UnixNano())
		p.mu.Unlock()
		_, _ = p.from.WriteTo(b, p.target) // refused: then it does not arrive
	}
}

func (p *prober) receive() {
	b := make([]byte, 64)
	for {
		n, _, err := p.to.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if i := binary.BigEndian.Uint64(b); err == nil && n == 16 && i < probeMost {
			p.arrived[i].Store(true)
		}
	}
}

func (p *prober) end() {
	close(p.stop)
	p.from.Close()
	p.to.Close()
	p.done.Wait()
}

// decided are the times of all packets of which is known whether they arrived.
func (p *prober) decided() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	until := time.Now().Add(-probeDecided).UnixNano()
	end := len(p.sent)
	for end > 0 && p.sent[end-1] > until {
		end--
	}
	return p.sent[:end]
}

// change waits for the first packet sent since Since from which on all arrive
// (Allowed) or none, and says when it was sent.
func (n *onNode) change(r request) (answer, error) {
	if n.probe == nil {
		return answer{}, errors.New("no prober runs")
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		sent := n.probe.decided()
		first, run := 0, 0
		from, _ := slices.BinarySearch(sent, r.Since)
		for i := from; i < len(sent); i++ {
			if n.probe.arrived[i].Load() != r.Allowed {
				run = 0
				continue
			}
			if run == 0 {
				first = i
			}
			if run++; run == probeRun {
				return answer{At: sent[first]}, nil
			}
		}
	}
	return answer{}, fmt.Errorf("after 10 s the packets do not show allowed=%v", r.Allowed)
}

// endProbe stops sending and counts what was lost, and the longest silence.
func (n *onNode) endProbe(request) (answer, error) {
	p := n.probe
	if p == nil {
		return answer{}, errors.New("no prober runs")
	}
	time.Sleep(probeDecided)
	sent := p.decided()
	p.end()
	n.probe = nil
	a := answer{Sent: len(sent)}
	silence := 0
	for i := range sent {
		if p.arrived[i].Load() {
			silence = 0
			continue
		}
		a.Lost++
		silence++
		a.Worst = max(a.Worst, float64(silence)*ms(probeEvery))
	}
	return a, nil
}
