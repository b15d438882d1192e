// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/bench"
	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/service"
)

// Ways to connect to a service.
const (
	kindUDP = "udp" // one socket, connected again and again
	kindTCP = "tcp" // a new socket each time
)

// otherServices stand beside the one that is connected to.
const otherServices = 1000

// measureConnect reads what the translation at connect() takes.
func measureConnect(ctx context.Context, e *Env) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	dir, fd, err := w.cgroup(ctx)
	if err != nil {
		return err
	}
	c, err := w.stentor(ctx, 52, true, func(cfg *datapath.Config) { cfg.SocketLB, cfg.CgroupRoot = true, dir })
	if err != nil {
		return err
	}
	n := c.nodes[1] // the last one to attach to the cgroup
	const port = 18080
	vip := netip.MustParseAddrPort("10.96.0.10:80")
	if err := n.dp.SetFrontends(frontends(vip, port)); err != nil {
		return err
	}
	server, err := startChild(n.space, nil, "serve", strconv.Itoa(port))
	if err != nil {
		return err
	}
	defer server.end()
	if _, err := server.out.ReadString('\n'); err != nil {
		return fmt.Errorf("server: %w %s", err, server.errs.String())
	}
	prog, err := n.program("sock_connect4")
	if err != nil {
		return err
	}
	defer prog.Close()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("enable statistics of programs: %w", err)
	}
	defer stats.Close()
	nothing, err := emptyConnect(dir)
	if err != nil {
		return err
	}
	w.undo = append(w.undo, nothing.close)
	took := map[string][]float64{}
	for range e.rounds(11) {
		for _, kind := range []string{kindUDP, kindTCP} {
			for _, x := range []struct {
				name string
				prog *ebpf.Program
				fd   int
				dst  string
			}{{kind, prog, fd, vip.String()}, {kind + " empty", nothing.prog, nothing.fd, "127.0.0.1:" + strconv.Itoa(port)}} {
				if err := ctx.Err(); err != nil {
					return err
				}
				ns, err := connecting(n.space, x.prog, x.fd, kind, x.dst)
				if err != nil {
					return err
				}
				took[x.name] = append(took[x.name], ns)
			}
		}
	}
	how := fmt.Sprintf("kernel statistics, %d services", otherServices+2)
	e.Add(bench.Median("connect() to a service, the same UDP socket again", "ns", took[kindUDP]).Below(90).By("%s", how),
		bench.Median("connect() to a service, a new TCP socket", "ns", took[kindTCP]).Below(130).By("%s", how),
		bench.Median("an empty program at connect(), the same UDP socket", "ns", took[kindUDP+" empty"]),
		bench.Median("an empty program at connect(), a new TCP socket", "ns", took[kindTCP+" empty"]))
	return nil
}

// connecting has a process of the cgroup connect, and reads what the program
// took each time.
func connecting(at *space, prog *ebpf.Program, cgroup int, kind, dst string) (float64, error) {
	count := map[string]int{kindUDP: 20000, kindTCP: 2000}[kind]
	before, err := prog.Stats()
	if err != nil {
		return 0, err
	}
	client, err := startChild(at, &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}, "connect", kind, dst, strconv.Itoa(count))
	if err != nil {
		return 0, err
	}
	_, err = client.out.ReadString('\n')
	client.end()
	if err != nil {
		return 0, fmt.Errorf("%s: %w %s", kind, err, client.errs.String())
	}
	after, err := prog.Stats()
	if err != nil {
		return 0, err
	}
	runs := float64(after.RunCount - before.RunCount)
	if int(runs) < count {
		return 0, fmt.Errorf("%s: the program ran %v times for %d connects", kind, runs, count)
	}
	return float64(after.Runtime-before.Runtime) / runs, nil
}

// emptyProgram is one that does nothing, in a cgroup of its own.
type emptyProgram struct {
	prog  *ebpf.Program
	fd    int
	close func()
}

func emptyConnect(beside string) (p emptyProgram, err error) {
	dir := beside + "-empty"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return p, err
	}
	undo := []func(){func() { os.Remove(dir) }}
	p.close = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.fd, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return p, err
	}
	undo = append(undo, func() { unix.Close(p.fd) })
	p.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if err != nil {
		return p, err
	}
	undo = append(undo, func() { p.prog.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInet4Connect, Program: p.prog})
	if err != nil {
		return p, err
	}
	undo = append(undo, func() { l.Close() })
	return p, nil
}

// frontends are the service at vip, whose backend is this host, and many others.
func frontends(vip netip.AddrPort, port uint16) (out []service.Frontend) {
	here := service.Backend{Addr: netip.MustParseAddr("127.0.0.1"), Port: port}
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		out = append(out, service.Frontend{Service: "bench/target", Addr: vip.Addr(), Port: vip.Port(), Protocol: protocol, Kind: service.ClusterIP, Backends: []service.Backend{with(here, protocol)}})
	}
	for i := range otherServices {
		out = append(out, service.Frontend{Service: fmt.Sprint("bench/s", i), Addr: netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), Port: 80,
			Protocol: unix.IPPROTO_TCP, Kind: service.ClusterIP, Backends: []service.Backend{{Addr: netip.AddrFrom4([4]byte{10, 52, 1, byte(i)}), Port: 80, Protocol: unix.IPPROTO_TCP, State: service.Active}}})
	}
	return out
}

// connectLoop connects count times and says so.
func connectLoop(kind, address, count string, out io.Writer) error {
	t, err := parseTarget(address)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	var fd uintptr
	for i := range n {
		var e unix.Errno
		switch {
		case kind == kindTCP:
			fd, e = t.dial(unix.SOCK_STREAM)
			unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		case i == 0:
			fd, e = t.dial(unix.SOCK_DGRAM)
		default:
			e = t.connect(fd)
		}
		if e != 0 {
			return fmt.Errorf("connect %d to %s: %w", i, address, e)
		}
	}
	_, err = fmt.Fprintln(out, "done")
	return err
}

// with is the backend for a protocol.
func with(b service.Backend, protocol uint8) service.Backend {
	b.Protocol, b.State = protocol, service.Active
	return b
}
