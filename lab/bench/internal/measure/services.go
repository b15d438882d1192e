// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

// proxied is a node whose services somebody carries out, with two pods: one asks,
// one answers.
type proxied struct {
	name     string
	api      *k8stest.Server
	from, to *space
	client   *unix.SysProcAttr // of processes that ask
	server   netip.Addr
	slot     int // its own services are numbered by it
	// start starts whoever carries services out, stop ends it; the pods stay.
	start func(context.Context) error
	stop  func()
	pid   func() int // of that process
	log   *bytes.Buffer
}

// A node's own services, at the end of the range of ClusterIPs.
const (
	servedPort  = 80
	ownTarget   = 1 // its backend is the node's server
	ownMark     = 2 // the same, made last: when it works, all before it do
	ownSwitch   = 3 // has the backend now and then
	endpointsOf = 5 // of each other service
)

// vip is where a service of the node's own is.
func (p *proxied) vip(own int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 111, byte(p.slot), byte(own)}), servedPort)
}

// others puts services from to before to into the API, each with endpointsOf
// endpoints of its own.
func others(api *k8stest.Server, from, to int) {
	for i := from; i < to; i++ {
		ip := netip.AddrFrom4([4]byte{10, byte(96 + i>>16), byte(i >> 8), byte(i)})
		var endpoints []netip.Addr
		for k := range endpointsOf {
			n := i*endpointsOf + k
			endpoints = append(endpoints, netip.AddrFrom4([4]byte{10, byte(128 + n>>16), byte(n >> 8), byte(n)}))
		}
		putService(api, fmt.Sprint("s", i), ip, endpoints, 8080, "TCP")
	}
}

// own puts one of the node's own services there; without ready it has no endpoint.
func (p *proxied) own(number int, ready bool) {
	var endpoints []netip.Addr
	if ready {
		endpoints = append(endpoints, p.server)
	}
	putService(p.api, p.ownName(number), p.vip(number).Addr(), endpoints, servedPort, "TCP", "UDP")
}

func (p *proxied) ownName(number int) string { return fmt.Sprintf("own-%d-%d", p.slot, number) }

func (p *proxied) disown(number int) {
	name := p.ownName(number)
	p.api.Remove("api/v1/namespaces/" + benchNamespace + "/services/" + name)
	p.api.Remove("apis/discovery.k8s.io/v1/namespaces/" + benchNamespace + "/endpointslices/" + name)
}

func putService(api *k8stest.Server, name string, ip netip.Addr, endpoints []netip.Addr, target uint16, protocols ...string) {
	var ports, targets []string
	for _, p := range protocols {
		ports = append(ports, fmt.Sprintf(`{"name":%q,"protocol":%q,"port":%d,"targetPort":%d}`, strings.ToLower(p), p, servedPort, target))
		targets = append(targets, fmt.Sprintf(`{"name":%q,"protocol":%q,"port":%d}`, strings.ToLower(p), p, target))
	}
	service := "api/v1/namespaces/" + benchNamespace + "/services/" + name
	if api.Object(service) == nil {
		api.Put(service, fmt.Sprintf(`{"metadata":{},"spec":{"type":"ClusterIP","clusterIP":%[1]q,"clusterIPs":[%[1]q],"ipFamilies":["IPv4"],"internalTrafficPolicy":"Cluster",
			"sessionAffinity":"None","selector":{"app":%[2]q},"ports":[%[3]s]}}`, ip, name, strings.Join(ports, ",")))
	}
	var list []string
	for _, a := range endpoints {
		list = append(list, fmt.Sprintf(`{"addresses":[%q],"nodeName":%q,"conditions":{"ready":true,"serving":true,"terminating":false}}`, a, agentNodeName))
	}
	api.Put("apis/discovery.k8s.io/v1/namespaces/"+benchNamespace+"/endpointslices/"+name, fmt.Sprintf(`{"metadata":{"labels":{"kubernetes.io/service-name":%q}},"addressType":"IPv4",
		"ports":[%s],"endpoints":[%s]}`, name, strings.Join(targets, ","), strings.Join(list, ",")))
}

// serve answers in the node's server pod until the world ends.
func (p *proxied) serve(w *world) error {
	server, err := startChild(p.to, nil, "serve", strconv.Itoa(servedPort))
	if err != nil {
		return err
	}
	w.undo = append(w.undo, server.end)
	if line, err := server.out.ReadString('\n'); err != nil {
		return fmt.Errorf("server of %s: %w %s%s", p.name, err, line, server.errs.String())
	}
	return nil
}

// crr makes short connections for a while.
func (p *proxied) crr(dst netip.AddrPort, d time.Duration) (pingResult, error) {
	var r pingResult
	client, err := startChild(p.from, p.client, "call", kindCRR, dst.String(), d.String())
	if err != nil {
		return r, err
	}
	defer client.end()
	if err := json.NewDecoder(client.out).Decode(&r); err != nil {
		return r, fmt.Errorf("short connections of %s to %s: %w %s", p.name, dst, err, client.errs.String())
	}
	return r, nil
}

// watcher tries a service all the time and says when it begins and ends to work.
type watcher struct {
	*child
	scan  *bufio.Scanner
	works bool
}

func (p *proxied) watch(dst netip.AddrPort) (*watcher, error) {
	c, err := startChild(p.from, p.client, "watch", dst.String())
	if err != nil {
		return nil, err
	}
	return &watcher{child: c, scan: bufio.NewScanner(c.out)}, nil
}

// until waits for the service to work or not, and says since when it does.
func (w *watcher) until(works bool, limit time.Duration) (time.Time, error) {
	timer := time.AfterFunc(limit, func() { _ = w.cmd.Process.Kill() })
	defer timer.Stop()
	for w.scan.Scan() {
		var since int64
		if _, err := fmt.Sscan(w.scan.Text(), &w.works, &since); err != nil {
			return time.Time{}, fmt.Errorf("watcher said %q: %w", w.scan.Text(), err)
		}
		if w.works == works {
			return time.Unix(0, since), nil
		}
	}
	return time.Time{}, fmt.Errorf("the service is not as wanted (works: %v) within %s %s", works, limit, w.errs.String())
}

// watchLoop connects again and again, and prints each change with its time.
func watchLoop(address string, out interface{ Write([]byte) (int, error) }) error {
	t, err := parseTarget(address)
	if err != nil {
		return err
	}
	for last, first := false, true; ; first = false {
		// What is dropped must not hold the loop up.
		fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(t.family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if e != 0 {
			return e
		}
		if e = t.connect(fd); e == unix.EINPROGRESS {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			n, _ := unix.Poll(poll, 100)
			failed, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
			e = unix.Errno(failed)
			if n == 0 {
				e = unix.ETIMEDOUT
			}
		}
		unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		if works := e == 0; works != last || first {
			last = works
			if _, err := fmt.Fprintln(out, works, time.Now().UnixNano()); err != nil {
				return err
			}
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// usedBy is the processor time of a process and of the children that it has waited for.
func usedBy(pid int) (time.Duration, error) {
	own, err := processorTime(pid)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 15 {
		return 0, errors.New("process has ended")
	}
	user, err1 := strconv.Atoi(f[13]) // of children, in ticks of 10 ms
	system, err2 := strconv.Atoi(f[14])
	return own + time.Duration(user+system)*10*time.Millisecond, errors.Join(err1, err2)
}
