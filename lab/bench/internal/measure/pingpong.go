// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kinds of exchange: request and response on one connection, or connect,
// request, response, close.
const (
	kindRR  = "rr"
	kindCRR = "crr"
)

// pingResult is what a client found, in nanoseconds.
type pingResult struct {
	P50, P99 float64
	First50  float64 // connect() alone
	Count    int
	Seconds  float64 // that the counted exchanges took together
}

// pingPong measures exchanges of one byte between two namespaces, both ends
// pinned to one processor. Each end is a process of its own.
// It tries again where a busy machine gave them no time.
func pingPong(kind string, from, to *space, dst netip.Addr, port uint16, d time.Duration) (r pingResult, err error) {
	for range 3 {
		if r, err = pingPongOnce(kind, from, to, dst, port, d); err == nil {
			break
		}
	}
	return r, err
}

func pingPongOnce(kind string, from, to *space, dst netip.Addr, port uint16, d time.Duration) (pingResult, error) {
	var r pingResult
	server, err := startChild(to, nil, "serve", strconv.Itoa(int(port)))
	if err != nil {
		return r, err
	}
	defer server.end()
	if line, err := server.out.ReadString('\n'); err != nil {
		return r, fmt.Errorf("server in %s: %w %s%s", to.name, err, line, server.errs.String())
	}
	client, err := startChild(from, nil, "call", kind, netip.AddrPortFrom(dst, port).String(), d.String())
	if err != nil {
		return r, err
	}
	defer client.end()
	if err := json.NewDecoder(client.out).Decode(&r); err != nil {
		return r, fmt.Errorf("%s from %s to %s: %w %s", kind, from.name, dst, err, client.errs.String())
	}
	return r, nil
}

// child is a process of this program that does one thing.
type child struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	errs bytes.Buffer
}

func newChild(attr *unix.SysProcAttr, args []string) (*child, error) {
	c := &child{cmd: exec.Command("/proc/self/exe", append([]string{"child"}, args...)...)}
	// The loops below block in raw system calls, which the scheduler must not interrupt.
	c.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	c.cmd.Stderr, c.cmd.SysProcAttr = &c.errs, attr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, nil
}

// startChild starts this program as a child in a namespace.
func startChild(s *space, attr *unix.SysProcAttr, args ...string) (*child, error) {
	c, err := newChild(attr, args)
	if err != nil {
		return nil, err
	}
	if err := s.do(c.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	return c, nil
}

// startFree starts it on whatever processor there is.
func startFree(s *space, args ...string) (*child, error) {
	c, err := newChild(nil, args)
	if err != nil {
		return nil, err
	}
	err = s.do(func() error { return errors.Join(everyCPU(), c.cmd.Start()) })
	if err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	return c, nil
}

func (c *child) end() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// Child is what the program does when it is started as a child.
func Child(args []string, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "sink":
		return sinkLoop(args[1], out)
	case len(args) == 4 && args[0] == "pour":
		return pourLoop(args[1], args[2], args[3], out)
	}
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	var set unix.CPUSet
	set.Set(benchCPU)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to a processor: %w", err)
	}
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1], out)
	case len(args) == 4 && args[0] == "call":
		return call(args[1], args[2], args[3], out)
	case len(args) == 2 && args[0] == "watch":
		return watchLoop(args[1], out)
	case len(args) == 4 && args[0] == "connect":
		return connectLoop(args[1], args[2], args[3], out)
	}
	return fmt.Errorf("child %v: unknown", args)
}

// serve answers every byte with a byte, one connection after the other.
func serve(portText string, out io.Writer) error {
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return err
	}
	l, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(l, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
		unix.Bind(l, &unix.SockaddrInet6{Port: int(port)}), unix.Listen(l, 4096)); err != nil {
		return fmt.Errorf("listen on port %d: %w", port, err)
	}
	fmt.Fprintln(out, "ready")
	for {
		fd, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(l), 0, 0, 0, 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		noDelay(fd)
		for readByte(fd) && writeByte(fd) {
		}
		unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
}

// The plainest calls that there are: what they cost is the kernel's.

var oneByte [8]byte

func readByte(fd uintptr) bool {
	for {
		n, _, e := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&oneByte)), 1)
		if e != unix.EINTR {
			return e == 0 && n == 1
		}
	}
}

func writeByte(fd uintptr) bool {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&oneByte)), 1)
	return e == 0 && n == 1
}

func noDelay(fd uintptr) {
	on := int32(1)
	unix.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, uintptr(unsafe.Pointer(&on)), 4, 0)
}

// target is a socket address as the kernel takes it.
type target struct {
	family int
	raw    [28]byte
	size   uintptr
}

func parseTarget(text string) (*target, error) {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	t := &target{}
	t.raw[2], t.raw[3] = byte(a.Port()>>8), byte(a.Port())
	if a.Addr().Is4() {
		t.family, t.size = unix.AF_INET, 16
		copy(t.raw[4:], a.Addr().AsSlice())
	} else {
		t.family, t.size = unix.AF_INET6, 28
		copy(t.raw[8:], a.Addr().AsSlice())
	}
	t.raw[0] = byte(t.family) // little endian, as all our machines are
	return t, nil
}

// dial connects a new socket of the type; false: the kernel refused.
func (t *target) dial(kind int) (fd uintptr, e unix.Errno) {
	fd, _, e = unix.RawSyscall(unix.SYS_SOCKET, uintptr(t.family), uintptr(kind), 0)
	if e != 0 {
		return fd, e
	}
	return fd, t.connect(fd)
}

func (t *target) connect(fd uintptr) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&t.raw)), t.size)
	return e
}

// call exchanges bytes for a while and prints a pingResult.
func call(kind, address, length string, out io.Writer) error {
	t, err := parseTarget(address)
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(length)
	if err != nil {
		return err
	}
	took, first := make([]uint32, 0, 1<<20), make([]uint32, 0, 1<<20)
	each := func(fd uintptr) error {
		if !writeByte(fd) || !readByte(fd) {
			return fmt.Errorf("exchange %d with %s failed", len(took), address)
		}
		return nil
	}
	const warm = 100 // exchanges that do not count
	var fd uintptr
	if kind == kindRR {
		var e unix.Errno
		if fd, e = t.dial(unix.SOCK_STREAM); e != 0 {
			return fmt.Errorf("connect to %s: %w", address, e)
		}
		noDelay(fd)
	}
	for start, n := time.Now(), 0; time.Since(start) < d && len(took) < cap(took); n++ {
		begin := time.Now()
		if kind == kindCRR {
			var e unix.Errno
			if fd, e = t.dial(unix.SOCK_STREAM); e != 0 {
				return fmt.Errorf("connect %d to %s: %w", n, address, e)
			}
			if n >= warm {
				first = append(first, uint32(time.Since(begin)))
			}
		}
		if err := each(fd); err != nil {
			return err
		}
		if kind == kindCRR {
			unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		}
		if n >= warm {
			took = append(took, uint32(time.Since(begin)))
		}
	}
	if len(took) == 0 {
		return fmt.Errorf("no exchange with %s within %s", address, d)
	}
	r := pingResult{Count: len(took)}
	for _, t := range took {
		r.Seconds += float64(t) / 1e9
	}
	slices.Sort(took)
	r.P50, r.P99 = float64(took[len(took)/2]), float64(took[len(took)*99/100])
	if len(first) > 0 {
		slices.Sort(first)
		r.First50 = float64(first[len(first)/2])
	}
	return json.NewEncoder(out).Encode(r)
}
