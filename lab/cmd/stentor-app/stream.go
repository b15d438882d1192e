// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// A stream is a run of numbered packets of at least headerLen bytes:
//
//	0   4 bytes  "STRM"
//	4   1 byte   kind
//	8   8 bytes  run, a random number, big endian
//	16  8 bytes  number of the packet, from 0, big endian
//	24  8 bytes  when it was sent, ns since 1970, big endian
//
// The receiver sends every data packet back as an echo, and answers an ask
// with its count, in JSON after the header.
const (
	headerLen = 32
	kindData  = 1
	kindEcho  = 2
	kindAsk   = 3
	kindCount = 4
)

func packet(kind byte, run, seq uint64, size int) []byte {
	b := make([]byte, max(size, headerLen))
	copy(b, "STRM")
	b[4] = kind
	binary.BigEndian.PutUint64(b[8:], run)
	binary.BigEndian.PutUint64(b[16:], seq)
	stamp(b)
	return b
}

// stamp says that the packet is sent now.
func stamp(b []byte) { binary.BigEndian.PutUint64(b[24:], uint64(time.Now().UnixNano())) }

func sentAt(b []byte) time.Time { return time.Unix(0, int64(binary.BigEndian.Uint64(b[24:]))) }

func parse(b []byte) (kind byte, run, seq uint64, ok bool) {
	if len(b) < headerLen || string(b[:4]) != "STRM" {
		return 0, 0, 0, false
	}
	return b[4], binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), true
}

// count is what one end has seen of a stream.
type count struct {
	Received     int     `json:"received"`
	Lost         int     `json:"lost"`     // of those up to the last that was sent
	Overflow     int     `json:"overflow"` // came, but the reader was so late that the socket's queue was full
	Duplicates   int     `json:"duplicates"`
	Reordered    int     `json:"reordered"`
	Gaps         int     `json:"gaps"`       // runs of lost packets
	LongestGap   int     `json:"longestGap"` // packets in the longest such run
	MaxSilenceMS float64 `json:"maxSilenceMs"`
	MaxDelayMS   float64 `json:"maxDelayMs"` // from sending to the receiver's socket; UDP on one machine
	seen         []bool
	highest      int
	last         time.Time
}

func (c *count) add(seq uint64, now time.Time) {
	if seq >= 1<<32 {
		return
	}
	n := int(seq)
	for len(c.seen) <= n {
		c.seen = append(c.seen, false)
	}
	switch {
	case c.seen[n]:
		c.Duplicates++
		return
	case n < c.highest:
		c.Reordered++
	}
	c.highest = max(c.highest, n)
	c.seen[n] = true
	c.Received++
	if !c.last.IsZero() {
		c.MaxSilenceMS = max(c.MaxSilenceMS, now.Sub(c.last).Seconds()*1000)
	}
	c.last = now
}

// arrived adds a datagram with what the kernel says of it.
func (c *count) arrived(seq uint64, sent time.Time, how arrival) {
	c.MaxDelayMS = max(c.MaxDelayMS, how.at.Sub(sent).Seconds()*1000)
	c.Overflow = max(c.Overflow, int(how.refused))
	c.add(seq, how.at)
}

// close counts what is missing of total packets.
func (c *count) close(total int) {
	c.Lost, c.Gaps, c.LongestGap = 0, 0, 0
	run := 0
	for n := range total {
		if n < len(c.seen) && c.seen[n] {
			run = 0
			continue
		}
		c.Lost++
		if run == 0 {
			c.Gaps++
		}
		run++
		c.LongestGap = max(c.LongestGap, run)
	}
}

func runStreamRecv(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("stream-recv", flag.ContinueOnError)
	addr := fs.String("listen", ":9000", "address to listen on, UDP and TCP")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	l, err := listen(ctx, *addr)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go serveEcho(ctx, l)
	c, err := listenUDP(ctx, *addr)
	if err != nil {
		return err
	}
	runs := map[uint64]*count{}
	buf := make([]byte, 65536)
	for {
		n, answer, from, how, err := receive(c, buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		kind, run, seq, ok := parse(buf[:n])
		if !ok {
			continue
		}
		if runs[run] == nil {
			runs[run] = &count{}
			fmt.Printf("stream %d from %s\n", run, from)
		}
		switch kind {
		case kindData:
			runs[run].arrived(seq, sentAt(buf), how)
			buf[4] = kindEcho
			stamp(buf)
			answer(buf[:n]) // the sender counts what does not come back
		case kindAsk:
			runs[run].close(int(seq))
			j, err := json.Marshal(runs[run])
			if err != nil {
				return err
			}
			answer(append(packet(kindCount, run, seq, 0), j...))
		}
	}
}

// streamReport is what the sender prints: Forth is the receiver's count of
// data, Back the sender's count of echoes.
type streamReport struct {
	Network    string  `json:"network"`
	To         string  `json:"to"`
	Sent       int     `json:"sent"`
	Seconds    float64 `json:"seconds"`
	Forth      *count  `json:"forth,omitempty"` // UDP only; absent if the receiver did not answer at the end
	Back       *count  `json:"back"`
	SendErrors int     `json:"sendErrors"`
	Error      string  `json:"error,omitempty"` // TCP: how the connection ended early
}

func runStreamSend(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("stream-send", flag.ContinueOnError)
	rate := fs.Int("rate", 1000, "packets per second")
	duration := fs.Duration("duration", 5*time.Second, "how long; an interrupt ends it early, with the report")
	size := fs.Int("size", 64, "bytes per packet, at least 32")
	tcp := fs.Bool("tcp", false, "TCP instead of UDP")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if fs.NArg() != 1 || *rate < 1 {
		return exitCode{2, errors.New("want HOST:PORT and a rate above 0")}
	}
	network := "udp"
	if *tcp {
		network = "tcp"
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, network, fs.Arg(0))
	if err != nil {
		return exitCode{netCode(err), err}
	}
	defer c.Close()
	s := &sender{conn: c, run: rand.Uint64(), size: max(*size, headerLen), answer: make(chan *count, 1)}
	s.report = streamReport{Network: network, To: c.RemoteAddr().String(), Back: &count{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if *tcp {
			s.readTCP()
		} else {
			s.readUDP()
		}
	}()
	start := time.Now()
	s.send(ctx, *rate, *duration, done)
	s.report.Seconds = time.Since(start).Seconds()
	if !*tcp {
		s.ask()
	}
	s.drain(done)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Back.close(s.report.Sent)
	return printJSON(s.report)
}

type sender struct {
	conn   net.Conn
	run    uint64
	size   int
	answer chan *count
	mu     sync.Mutex // guards report
	report streamReport
}

// send keeps to the schedule: what is late is sent at once, so that a slow
// machine makes bursts and not fewer packets.
func (s *sender) send(ctx context.Context, rate int, duration time.Duration, done <-chan struct{}) {
	interval := time.Second / time.Duration(rate)
	tick := time.NewTicker(max(interval, time.Millisecond))
	defer tick.Stop()
	start := time.Now()
	for seq := 0; ; {
		due := min(int(time.Since(start)/interval), int(duration/interval))
		for ; seq < due; seq++ {
			_, err := s.conn.Write(packet(kindData, s.run, uint64(seq), s.size))
			s.mu.Lock()
			s.report.Sent++
			if err != nil {
				s.report.SendErrors++
			}
			s.mu.Unlock()
		}
		if time.Since(start) >= duration {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-done: // the connection is gone
			return
		case <-tick.C:
		}
	}
}

func (s *sender) readUDP() {
	c := s.conn.(*net.UDPConn)
	_ = c.SetReadBuffer(4 << 20)
	tellArrivals(c)
	buf, oob := make([]byte, 65536), make([]byte, 256)
	for {
		n, oobn, _, _, err := c.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) || os.IsTimeout(err) {
			return
		}
		if err != nil {
			continue // a refused port may open again
		}
		kind, run, seq, ok := parse(buf[:n])
		if !ok || run != s.run {
			continue
		}
		switch kind {
		case kindEcho:
			s.mu.Lock()
			s.report.Back.arrived(seq, sentAt(buf), arrivalOf(oob[:oobn]))
			s.mu.Unlock()
		case kindCount:
			got := &count{}
			if json.Unmarshal(buf[headerLen:n], got) == nil {
				select {
				case s.answer <- got:
				default:
				}
			}
		}
	}
}

func (s *sender) readTCP() {
	buf := make([]byte, s.size)
	for {
		if _, err := io.ReadFull(s.conn, buf); err != nil {
			if !errors.Is(err, net.ErrClosed) && !os.IsTimeout(err) {
				s.mu.Lock()
				s.report.Error = err.Error()
				s.mu.Unlock()
			}
			return
		}
		_, _, seq, ok := parse(buf)
		s.mu.Lock()
		if ok {
			s.report.Back.add(seq, time.Now())
		} else {
			s.report.Error = fmt.Sprintf("bytes that were not sent: %q", buf[:4])
		}
		s.mu.Unlock()
	}
}

// ask gets the receiver's count; the question may be lost too.
func (s *sender) ask() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 20 {
		// An error shows as a missing answer.
		_, _ = s.conn.Write(packet(kindAsk, s.run, uint64(s.report.Sent), 0))
		select {
		case got := <-s.answer:
			s.report.Forth = got
			return
		case <-tick.C:
		}
	}
}

// drain waits for the last echoes.
func (s *sender) drain(done <-chan struct{}) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 50 {
		s.mu.Lock()
		all := s.report.Back.Received >= s.report.Sent
		s.mu.Unlock()
		if all {
			break
		}
		<-tick.C
	}
	_ = s.conn.SetReadDeadline(time.Now())
	<-done
}
