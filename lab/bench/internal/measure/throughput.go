// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/bench"
)

// Length of one measurement of throughput, its rounds, and streams at once.
const (
	pourTime    = 500 * time.Millisecond
	pourRounds  = 7
	pourStreams = 4
	pourPiece   = 256 << 10 // bytes of a write
)

// pourResult is what a client could send.
type pourResult struct{ Gbits float64 } // per second

// measureThroughput compares what TCP carries on all ways, in turns. Both ends
// may use every processor: what is compared is what a byte costs them all.
func measureThroughput(ctx context.Context, e *Env) error {
	p, err := newPaths(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	ways := p.all()
	took := map[int]map[string][]float64{1: {}, pourStreams: {}}
	port := uint16(30000)
	rounds := e.rounds(pourRounds)
	for round := range rounds {
		e.progress("round %d of %d", round+1, rounds)
		for i := range ways {
			w := ways[i]
			if round%2 == 1 {
				w = ways[len(ways)-1-i]
			}
			for streams := range took {
				if err := ctx.Err(); err != nil {
					return err
				}
				port++
				r, err := pour(w, port, streams)
				if err != nil {
					return err
				}
				took[streams][w.name] = append(took[streams][w.name], r.Gbits)
			}
		}
	}
	for _, streams := range []int{1, pourStreams} {
		t, label := took[streams], "TCP, one stream"
		if streams > 1 {
			label = fmt.Sprintf("TCP, %d streams", streams)
		}
		how := fmt.Sprintf("%s each, %d rounds in turns; more is better", pourTime, rounds)
		ratio := func(name string, ours, theirs way) bench.Row {
			return bench.Ratio(label+", "+name, t[ours.name], t[theirs.name]).By("%s", how)
		}
		e.Add(
			ratio("same node over raw veth", p.same, p.raw),
			ratio("same node over bridge CNI", p.same, p.bridge),
			ratio("cross node VXLAN over kernel VXLAN + routing", p.cross, p.kernelVXLAN),
			ratio("cross node native over kernel routing", p.native, p.kernelCross),
		)
		for _, w := range ways {
			e.Add(bench.Median(label+", "+w.name, "Gbit/s", t[w.name]))
		}
	}
	return nil
}

// pour sends as much as goes from one end of a way to the other.
func pour(w way, port uint16, streams int) (pourResult, error) {
	var r pourResult
	sink, err := startFree(w.to, "sink", strconv.Itoa(int(port)))
	if err != nil {
		return r, err
	}
	defer sink.end()
	if _, err := sink.out.ReadString('\n'); err != nil {
		return r, fmt.Errorf("sink in %s: %w %s", w.to.name, err, sink.errs.String())
	}
	client, err := startFree(w.from, "pour", netip.AddrPortFrom(w.dst, port).String(), strconv.Itoa(streams), pourTime.String())
	if err != nil {
		return r, err
	}
	defer client.end()
	if err := json.NewDecoder(client.out).Decode(&r); err != nil {
		return r, fmt.Errorf("%d streams on %s: %w %s", streams, w.name, err, client.errs.String())
	}
	return r, nil
}

// everyCPU lets the calling thread, and what it starts, run everywhere.
func everyCPU() error {
	var set unix.CPUSet
	for cpu := range 64 * len(set) {
		set.Set(cpu)
	}
	return unix.SchedSetaffinity(0, &set)
}

// sinkLoop throws away what comes.
func sinkLoop(port string, out io.Writer) error {
	runtime.GOMAXPROCS(pourStreams)
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, pourPiece)
			for {
				if _, err := c.Read(b); err != nil {
					c.Close()
					return
				}
			}
		}()
	}
}

// pourLoop sends for a while by so many connections.
func pourLoop(address, streams, length string, out io.Writer) error {
	runtime.GOMAXPROCS(pourStreams)
	n, err := strconv.Atoi(streams)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(length)
	if err != nil {
		return err
	}
	dialer := net.Dialer{}
	dialer.SetMultipathTCP(false)
	var conns []net.Conn
	for range n {
		c, err := dialer.Dial("tcp", address)
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	var sent atomic.Int64
	var running sync.WaitGroup
	const warm = 50 * time.Millisecond // until the windows are open
	start := time.Now()
	for _, c := range conns {
		_ = c.SetDeadline(start.Add(warm + d + 10*time.Second))
		running.Go(func() {
			b := make([]byte, pourPiece)
			for at := time.Duration(0); at < warm+d; at = time.Since(start) {
				k, err := c.Write(b)
				if err != nil {
					return
				}
				if at >= warm {
					sent.Add(int64(k))
				}
			}
		})
	}
	running.Wait()
	took := time.Since(start) - warm
	if sent.Load() == 0 {
		return fmt.Errorf("nothing reached %s within %s", address, d)
	}
	return json.NewEncoder(out).Encode(pourResult{Gbits: float64(sent.Load()) * 8 / float64(took.Nanoseconds())})
}
