// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/cilium/ebpf"
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
	took := map[string][]float64{}
	for range e.rounds(11) {
		for kind, count := range map[string]int{kindUDP: 20000, kindTCP: 2000} {
			if err := ctx.Err(); err != nil {
				return err
			}
			before, err := prog.Stats()
			if err != nil {
				return err
			}
			client, err := startChild(n.space, &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}, "connect", kind, vip.String(), strconv.Itoa(count))
			if err != nil {
				return err
			}
			_, err = client.out.ReadString('\n')
			client.end()
			if err != nil {
				return fmt.Errorf("%s: %w %s", kind, err, client.errs.String())
			}
			after, err := prog.Stats()
			if err != nil {
				return err
			}
			runs := float64(after.RunCount - before.RunCount)
			if int(runs) < count {
				return fmt.Errorf("%s: the program ran %v times for %d connects", kind, runs, count)
			}
			took[kind] = append(took[kind], float64(after.Runtime-before.Runtime)/runs)
		}
	}
	how := fmt.Sprintf("kernel statistics, %d services", otherServices+2)
	e.Add(bench.Median("connect() to a service, the same UDP socket again", "ns", took[kindUDP]).Below(90).By("%s", how),
		bench.Median("connect() to a service, a new TCP socket", "ns", took[kindTCP]).Below(130).By("%s", how))
	return nil
}

// frontends are the service at vip, whose backend is this host, and many others.
func frontends(vip netip.AddrPort, port uint16) (out []service.Frontend) {
	here := service.Backend{Addr: netip.MustParseAddr("127.0.0.1"), Port: port}
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		out = append(out, service.Frontend{Service: "bench/target", Addr: vip.Addr(), Port: vip.Port(), Protocol: protocol, Type: "ClusterIP", Backends: []service.Backend{here}})
	}
	for i := range otherServices {
		out = append(out, service.Frontend{Service: fmt.Sprint("bench/s", i), Addr: netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), Port: 80,
			Protocol: unix.IPPROTO_TCP, Type: "ClusterIP", Backends: []service.Backend{{Addr: netip.AddrFrom4([4]byte{10, 52, 1, byte(i)}), Port: 80}}})
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
