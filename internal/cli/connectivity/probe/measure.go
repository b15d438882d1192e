// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

func measure(ctx context.Context, r Request) (*Measure, error) {
	if r.Kind == Stream {
		return throughput(ctx, r)
	}
	var times []time.Duration
	var conn net.Conn
	start := time.Now()
	for time.Since(start) < r.Duration {
		began := time.Now()
		if conn == nil {
			c, err := dial(ctx, r, "tcp")
			if err != nil {
				return nil, err
			}
			conn = c
		}
		if err := roundTrip(conn); err != nil {
			conn.Close()
			return nil, err
		}
		if r.Kind == Connections {
			// Closed with a reset: ports in TIME_WAIT would run out.
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
			conn = nil
		}
		times = append(times, time.Since(began))
	}
	if conn != nil {
		conn.Close()
	}
	elapsed := time.Since(start)
	slices.Sort(times)
	return &Measure{
		Count: len(times), Elapsed: elapsed, PerSecond: float64(len(times)) / elapsed.Seconds(),
		P50: percentile(times, 50), P99: percentile(times, 99),
	}, nil
}

// percentile of sorted times.
func percentile(times []time.Duration, p int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[min(len(times)-1, len(times)*p/100)]
}

func roundTrip(c net.Conn) error {
	b := [1]byte{'x'}
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b[:])
	return err
}

// throughput counts what the other end got, not what fitted into buffers here.
func throughput(ctx context.Context, r Request) (*Measure, error) {
	c, err := dial(ctx, r, "tcp")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	chunk := pattern(1 << 17)
	start := time.Now()
	for time.Since(start) < r.Duration {
		if _, err := c.Write(chunk); err != nil {
			return nil, err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the other end did not tell what it got: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("the other end told %q instead of a number of bytes", line)
	}
	elapsed := time.Since(start)
	return &Measure{Bytes: n, Elapsed: elapsed, PerSecond: float64(n) / elapsed.Seconds()}, nil
}
