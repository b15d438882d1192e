// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// clock reads the kernel's jiffies, by which the programs stamp their rows.
type clock struct {
	mu   sync.Mutex
	low  *ebpf.Program
	high *ebpf.Program
	hz   uint32
}

// Jiffies returns the low 32 bits of the kernel's counter and how many make a second.
func (s *Set) Jiffies() (now, hz uint32, err error) {
	if err := s.clock.open(); err != nil {
		return 0, 0, err
	}
	now, err = ticks(s.clock.low)
	return now, s.clock.hz, err
}

func (c *clock) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hz != 0 {
		return nil
	}
	load := func(more ...asm.Instruction) (*ebpf.Program, error) {
		ins := append(asm.Instructions{asm.FnJiffies64.Call()}, more...)
		return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stentor_jiffies", Type: ebpf.SchedCLS, License: "GPL", Instructions: append(ins, asm.Return())})
	}
	var err error
	if c.low, err = load(); err != nil {
		return fmt.Errorf("load clock: %w", err)
	}
	if c.high, err = load(asm.RSh.Imm(asm.R0, 32)); err != nil {
		return fmt.Errorf("load clock: %w", err)
	}
	c.hz, err = c.frequency()
	return err
}

// frequency finds CONFIG_HZ, which the kernel tells nobody: the counter starts
// 300 seconds before it passes 2^32, so its distance from there over the uptime
// gives it, except close to 300 seconds, when two readings do.
func (c *clock) frequency() (uint32, error) {
	low, err := ticks(c.low)
	if err != nil {
		return 0, err
	}
	high, err := ticks(c.high)
	if err != nil {
		return 0, err
	}
	since := float64(int64(uint64(high)<<32|uint64(low)) - 1<<32)
	seconds := uptime() - 300
	if math.Abs(seconds) < 60 {
		start := uptime()
		for uptime()-start < 0.1 {
			time.Sleep(10 * time.Millisecond)
		}
		later, err := ticks(c.low)
		if err != nil {
			return 0, err
		}
		since, seconds = float64(later-low), uptime()-start
	}
	best, distance := uint32(0), math.Inf(1)
	for _, hz := range []uint32{100, 250, 300, 1000} {
		if d := math.Abs(math.Log(since / seconds / float64(hz))); d < distance {
			best, distance = hz, d
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("kernel timer frequency not found (%v ticks in %v s)", since, seconds)
	}
	return best, nil
}

// uptime is what jiffies count: seconds since boot without time asleep.
func uptime() float64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return float64(ts.Nano()) / 1e9
}

func ticks(p *ebpf.Program) (uint32, error) {
	v, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	if err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return v, nil
}

func (c *clock) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.low == nil || c.high == nil {
		return nil
	}
	errs := []error{c.low.Close(), c.high.Close()}
	c.low, c.high, c.hz = nil, nil, 0
	return errors.Join(errs...)
}
