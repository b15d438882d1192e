// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/rpc"
)

// request is what a process on a node is asked to do.
type request struct {
	Do       string   // a method of onNode, see handlers
	Pods     []podRef `json:",omitempty"`
	Plugin   string   `json:",omitempty"` // pluginStentor, pluginBridge
	Parallel bool     `json:",omitempty"`
	Count    int      `json:",omitempty"`
	Table    string   `json:",omitempty"`
	From, To string   `json:",omitempty"` // addresses of pods
	Since    int64    `json:",omitempty"` // ns since 1970
	Allowed  bool     `json:",omitempty"`
}

type podRef struct{ Name, UID string }

// answer is what came of it.
type answer struct {
	Error string    `json:",omitempty"`
	Took  []float64 `json:",omitempty"` // ms
	Rows  int       `json:",omitempty"`
	At    int64     `json:",omitempty"` // ns since 1970
	Sent  int       `json:",omitempty"`
	Lost  int       `json:",omitempty"`
	Worst float64   `json:",omitempty"` // ms
}

const (
	pluginStentor = "stentor"
	pluginBridge  = "bridge"
)

// onNode is the process on a node; undo is what it leaves as it was.
type onNode struct {
	undo   []func()
	frozen []int
	spaces map[string]bool
	probe  *prober
}

// OnNode answers requests, one a line, until there are no more.
func OnNode(_ context.Context, in io.Reader, out io.Writer) error {
	n := &onNode{spaces: map[string]bool{}}
	defer n.close()
	handlers := map[string]func(request) (answer, error){
		"freeze": n.freeze, "thaw": n.thaw, "add": n.add, "del": n.del, "exec": n.exec, "direct": n.direct,
		"rows": n.rows, "probe": n.startProbe, "change": n.change, "quiet": n.endProbe, "restarted": n.restarted,
	}
	enc := json.NewEncoder(out)
	for s := bufio.NewScanner(in); s.Scan(); {
		var r request
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			return err
		}
		f := handlers[r.Do]
		if f == nil {
			return fmt.Errorf("unknown request %q", r.Do)
		}
		a, err := f(r)
		if err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

func (n *onNode) close() {
	if n.probe != nil {
		n.probe.end()
	}
	for name := range n.spaces {
		_ = exec.Command("ip", "netns", "del", name).Run()
	}
	for i := len(n.undo) - 1; i >= 0; i-- {
		n.undo[i]()
	}
	_, _ = n.thaw(request{})
}

// processes of the node whose command line begins so.
func processes(words ...string) (out []int) {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range list {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		if len(args) < len(words) || filepath.Base(args[0]) != words[0] {
			continue
		}
		if same := strings.Join(args[1:len(words)], " ") == strings.Join(words[1:], " "); same {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			out = append(out, pid)
		}
	}
	return out
}

// freeze stops the kubelet, so that pods of the API are ours to attach.
func (n *onNode) freeze(request) (answer, error) {
	pids := processes("stentor-kube", "kubelet")
	if len(pids) == 0 {
		return answer{}, errors.New("no kubelet runs here")
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			return answer{}, err
		}
		n.frozen = append(n.frozen, pid)
	}
	return answer{}, nil
}

func (n *onNode) thaw(request) (answer, error) {
	for _, pid := range n.frozen {
		_ = unix.Kill(pid, unix.SIGCONT)
	}
	n.frozen = nil
	return answer{}, nil
}

// call is one call of a plugin.
type pluginCall struct {
	path string
	env  []string
	conf []byte
}

func netnsOf(plugin, pod string) string { return "bench-" + plugin + "-" + pod }

func (n *onNode) plugin(kind, verb string, p podRef) (pluginCall, error) {
	name := netnsOf(kind, p.Name)
	c := pluginCall{env: []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + name, "CNI_NETNS=/run/netns/" + name, "CNI_IFNAME=eth0",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + benchNamespace + ";K8S_POD_NAME=" + p.Name + ";K8S_POD_UID=" + p.UID,
		"PATH=" + os.Getenv("PATH")}}
	if kind == pluginBridge {
		c.path = "/usr/lib/cni/bridge"
		c.env = append(c.env, "CNI_PATH=/usr/lib/cni")
		c.conf = []byte(`{"cniVersion":"1.0.0","name":"bench-bridge","type":"bridge","bridge":"bench0","isGateway":true,` +
			`"ipam":{"type":"host-local","dataDir":"/run/stentor-bench","ranges":[[{"subnet":"10.66.0.0/16"}],[{"subnet":"fd66::/64"}]]}}`)
		return c, nil
	}
	c.path = "/opt/cni/bin/stentor-cni"
	c.env = append(c.env, "CNI_PATH=/opt/cni/bin")
	var err error
	c.conf, err = stentorConf()
	return c, err
}

// stentorConf is our entry of the node's configuration, as a runtime hands it over.
func stentorConf() ([]byte, error) {
	files, _ := filepath.Glob("/etc/cni/net.d/*.conflist")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var list struct {
			CNIVersion string           `json:"cniVersion"`
			Name       string           `json:"name"`
			Plugins    []map[string]any `json:"plugins"`
		}
		if err := json.Unmarshal(b, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, p := range list.Plugins {
			if p["type"] == "stentor-cni" {
				p["cniVersion"], p["name"] = list.CNIVersion, list.Name
				return json.Marshal(p)
			}
		}
	}
	return nil, fmt.Errorf("none of %v names the plugin stentor-cni", files)
}

// run is the plugin from start to end, as a runtime waits for it.
func (c pluginCall) run() (time.Duration, error) {
	cmd := exec.Command(c.path)
	cmd.Env, cmd.Stdin = c.env, bytes.NewReader(c.conf)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		return took, fmt.Errorf("%s %s: %w: %s%s", filepath.Base(c.path), c.env[0], err, out.String(), errs.String())
	}
	return took, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// add attaches pods, each in a namespace made before.
func (n *onNode) add(r request) (answer, error) {
	for _, p := range r.Pods {
		name := netnsOf(r.Plugin, p.Name)
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			return answer{}, fmt.Errorf("ip netns add %s: %w: %s", name, err, out)
		}
		n.spaces[name] = true
	}
	if r.Plugin == pluginBridge && len(n.undo) == 0 {
		n.undo = append(n.undo, func() {
			_ = exec.Command("ip", "link", "del", "bench0").Run()
			os.RemoveAll("/run/stentor-bench")
		})
	}
	return n.each(r, "ADD")
}

// del detaches pods and removes their namespaces.
func (n *onNode) del(r request) (answer, error) {
	a, err := n.each(r, "DEL")
	for _, p := range r.Pods {
		name := netnsOf(r.Plugin, p.Name)
		_ = exec.Command("ip", "netns", "del", name).Run()
		delete(n.spaces, name)
	}
	return a, err
}

func (n *onNode) each(r request, verb string) (answer, error) {
	a := answer{Took: make([]float64, len(r.Pods))}
	errs := make([]error, len(r.Pods))
	var wg sync.WaitGroup
	for i, p := range r.Pods {
		one := func() {
			c, err := n.plugin(r.Plugin, verb, p)
			if err == nil {
				var took time.Duration
				took, err = c.run()
				a.Took[i] = ms(took)
			}
			errs[i] = err
		}
		if r.Parallel {
			wg.Go(one)
		} else {
			one()
		}
	}
	wg.Wait()
	return a, errors.Join(errs...)
}

// exec is the plugin without any work.
func (n *onNode) exec(r request) (a answer, err error) {
	for range r.Count {
		c, err := n.plugin(pluginStentor, "VERSION", podRef{})
		if err != nil {
			return a, err
		}
		c.conf = []byte(`{"cniVersion":"1.0.0"}`)
		took, err := c.run()
		if err != nil {
			return a, err
		}
		a.Took = append(a.Took, ms(took))
	}
	return a, nil
}

var agentSocket = rpc.Client{Socket: rest.DefaultSocket}

// direct asks the agent without the plugin.
func (n *onNode) direct(r request) (a answer, err error) {
	for _, p := range r.Pods {
		name := netnsOf(pluginStentor, p.Name)
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			return a, fmt.Errorf("ip netns add %s: %w: %s", name, err, out)
		}
		n.spaces[name] = true
		ask := rest.CNIRequest{ContainerID: name, NetNS: "/run/netns/" + name, IfName: "eth0", PodNamespace: benchNamespace, PodName: p.Name, PodUID: p.UID}
		start := time.Now()
		if err := agentSocket.Call(context.Background(), "PUT", rest.PathCNIAdd, ask, nil); err != nil {
			return a, err
		}
		a.Took = append(a.Took, ms(time.Since(start)))
	}
	return a, nil
}

// rows counts those of a table of the agent that name the namespace of the
// measurements; with Count it waits until there are so many.
func (n *onNode) rows(r request) (a answer, err error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var t rest.Table
		if err := agentSocket.Call(context.Background(), "GET", rest.PathDBTable+r.Table, nil, &t); err != nil {
			return a, err
		}
		a.Rows = 0
		for _, row := range t.Rows {
			if strings.Contains(strings.Join(row, " "), benchNamespace) {
				a.Rows++
			}
		}
		if a.Rows >= r.Count {
			return a, nil
		}
		if time.Now().After(end) {
			return a, fmt.Errorf("the agent's table %s has %d rows of ours, not %d", r.Table, a.Rows, r.Count)
		}
	}
}

func agentPid() (int, error) {
	pids := processes("stentor", "agent")
	if len(pids) != 1 {
		return 0, fmt.Errorf("%d agents run on this node", len(pids))
	}
	return pids[0], nil
}

// memoryOf is what a process has resident, MiB.
func memoryOf(pid int) (map[string]float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		if k == "VmRSS" || strings.HasPrefix(k, "Rss") {
			var kib float64
			fmt.Sscan(v, &kib)
			out[k] = kib / 1024
		}
	}
	return out, nil
}

// restarted waits for an agent that began after Since, until its policy is in
// force, and says how long that took from the start of its process.
func (n *onNode) restarted(r request) (answer, error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		pid, err := agentPid()
		if err != nil {
			continue
		}
		began, err := startOf(pid)
		if err != nil || began.UnixNano() < r.Since {
			continue
		}
		// Ready: policy is in force, and pods can be attached.
		if agentSocket.Call(context.Background(), "GET", rest.PathCNIStatus, nil, nil) == nil {
			now := time.Now()
			return answer{Took: []float64{ms(now.Sub(began))}, At: now.UnixNano()}, nil
		}
	}
	return answer{}, errors.New("no agent became ready within 30 s")
}

// startOf is when a process began, to 10 ms.
func startOf(pid int) (time.Time, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return time.Time{}, errors.New("process has ended")
	}
	ticks, err := strconv.ParseInt(f[19], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return time.Time{}, err
	}
	const hertz = 100 // of the ticks in /proc, whatever the kernel's own
	return time.Now().Add(time.Duration(ticks)*time.Second/hertz - time.Duration(since.Nano())), nil
}
