// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/bench"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
	"github.com/stentor-net/stentor/internal/rpc"
)

// agentNode is a node with the product's agent, whose API server is one in
// memory: what it takes is the agent's alone.
type agentNode struct {
	*host
	w      *world
	bin    string
	dir    string // of the agent's files
	cgroup string
	api    *k8stest.Server
	url    string
	flags  []string // of the agent, beside those that every one has
	agent  *exec.Cmd
	log    bytes.Buffer
	rpc    rpc.Client
}

const (
	agentNodeName = "node1"
	podsMany      = 250 // that the agent's memory is judged with
)

func parts(m map[string]float64) string {
	return fmt.Sprintf("anonymous %.1f, files %.1f, shared %.1f", m["RssAnon"], m["RssFile"], m["RssShmem"])
}

// agentNode makes the node; its agent is started by start.
func (w *world) agentNode(ctx context.Context, bin string) (*agentNode, error) {
	h, err := w.host("agent")
	if err != nil {
		return nil, err
	}
	n := &agentNode{host: h, w: w, bin: bin, api: k8stest.Alone()}
	if n.dir, err = os.MkdirTemp("", "stentor-bench-"); err != nil {
		return nil, err
	}
	w.undo = append(w.undo, func() { os.RemoveAll(n.dir) })
	// As /run is; the mount goes with this process's.
	if err := unix.Mount("run", n.dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs at %s: %w", n.dir, err)
	}
	w.undo = append(w.undo, func() { _ = unix.Unmount(n.dir, unix.MNT_DETACH) })
	if n.cgroup, _, err = w.cgroup(ctx); err != nil {
		return nil, err
	}
	n.rpc = rpc.Client{Socket: n.dir + "/stentor.sock"}
	n.objects()
	if n.url, err = w.serveAPI(h, n.api); err != nil {
		return nil, err
	}
	w.undo = append(w.undo, n.stop)
	return n, nil
}

// serveAPI makes an API server reachable on a node's own loopback.
func (w *world) serveAPI(h *host, api http.Handler) (url string, err error) {
	var l net.Listener
	err = h.do(func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: api}
	go func() { _ = server.Serve(l) }()
	w.undo = append(w.undo, func() { server.Close() })
	return "http://" + l.Addr().String(), nil
}

func (n *agentNode) objects() {
	n.api.Put("api/v1/namespaces/"+benchNamespace, `{"metadata":{}}`)
	n.api.Put("api/v1/nodes/"+agentNodeName, fmt.Sprintf(`{"metadata":{},"spec":{"podCIDRs":["10.70.0.0/22","fd70::/112"]},
		"status":{"addresses":[{"type":"InternalIP","address":%q},{"type":"InternalIP","address":%q}]}}`, n.addr[0], n.addr[1]))
}

// pod makes a pod in the API, as the scheduler leaves it.
func (n *agentNode) pod(name, app string) podRef {
	path := "api/v1/namespaces/" + benchNamespace + "/pods/" + name
	n.api.Put(path, fmt.Sprintf(`{"metadata":{"uid":%q,"labels":{"app":%q}},"spec":{"nodeName":%q,"containers":[]},"status":{"phase":"Pending"}}`, name, app, agentNodeName))
	uid, _ := n.api.Object(path)["metadata"].(map[string]any)["uid"].(string)
	return podRef{Name: name, UID: uid}
}

// start starts the agent and returns how long it took until pods can be
// attached and the policy of all that there are is in force.
func (n *agentNode) start(ctx context.Context) (time.Duration, error) {
	n.agent = exec.Command(filepath.Join(n.bin, "stentor"), append([]string{"agent", "--node-name=" + agentNodeName, "--k8s-api-server=" + n.url,
		"--ipam=kubernetes", "--enable-ipv6=true", "--state-dir=" + n.dir, "--socket-path=" + n.rpc.Socket, "--bpf-root=" + BPFRoot, "--cgroup-root=" + n.cgroup,
		"--write-cni-conf-when-ready=" + n.dir + "/05-stentor.conflist", "--cni-exclusive=false"}, n.flags...)...)
	n.agent.Stdout, n.agent.Stderr = &n.log, &n.log
	n.agent.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	// The thread that starts it must live as long as it does (Pdeathsig).
	began, failed := make(chan error, 1), make(chan error, 1)
	start := time.Now()
	cmd := n.agent
	go func() {
		failed <- n.do(func() error {
			err := cmd.Start()
			began <- err
			if err != nil {
				return err
			}
			return cmd.Wait()
		})
	}()
	if err := <-began; err != nil {
		return 0, err
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if n.rpc.Call(ctx, "GET", rest.PathCNIStatus, nil, nil) == nil {
			return time.Since(start), nil
		}
		select {
		case err := <-failed:
			return 0, fmt.Errorf("the agent ended: %w\n%s", err, n.log.String())
		default:
		}
	}
	return 0, errors.Join(ctx.Err(), fmt.Errorf("the agent is not ready within 30 s\n%s", n.log.String()))
}

// stop ends the agent; the kernel goes on.
func (n *agentNode) stop() {
	if n.agent == nil || n.agent.Process == nil {
		return
	}
	_ = n.agent.Process.Signal(unix.SIGTERM)
	for n.agent.Process.Signal(unix.Signal(0)) == nil {
		time.Sleep(time.Millisecond)
	}
	n.agent = nil
}

// attach attaches pods by the plugin, one after the other.
func (n *agentNode) attach(pods []podRef) (took []float64, err error) {
	for _, p := range pods {
		s, err := n.w.space(p.Name)
		if err != nil {
			return took, err
		}
		t, err := n.call("ADD", p, s)
		if err != nil {
			return took, err
		}
		took = append(took, ms(t))
	}
	return took, nil
}

func (n *agentNode) call(verb string, p podRef, s *space) (time.Duration, error) {
	c := pluginCall{path: filepath.Join(n.bin, "stentor-cni"),
		env: []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.Name, "CNI_NETNS=" + s.path(), "CNI_IFNAME=eth0", "CNI_PATH=" + n.bin,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + benchNamespace + ";K8S_POD_NAME=" + p.Name + ";K8S_POD_UID=" + p.UID},
		conf: []byte(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"stentor","type":"stentor-cni","socket":%q}`, n.rpc.Socket))}
	var took time.Duration
	err := n.do(func() (err error) {
		took, err = c.run()
		return err
	})
	return took, err
}

// measureAgent is what a node's agent takes, apart from Kubernetes.
func measureAgent(ctx context.Context, e *Env) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	n, err := w.agentNode(ctx, e.Bin)
	if err != nil {
		return err
	}
	if _, err := n.start(ctx); err != nil {
		return err
	}
	memory := func(name string) (bench.Row, error) {
		m, err := memoryOf(n.agent.Process.Pid)
		return bench.Single("agent, resident, "+name, "MiB", m["VmRSS"]).By("%s", parts(m)), err
	}
	none, err := memory("no pods")
	if err != nil {
		return err
	}
	pods := func(prefix string, count int) (out []podRef) {
		for i := range count {
			out = append(out, n.pod(fmt.Sprintf("%s-%d", prefix, i), "bench"))
		}
		return out
	}
	if _, err := n.attach(pods("first", 30)); err != nil {
		return err
	}
	few, err := memory("30 pods")
	if err != nil {
		return err
	}
	row := pods("row", podsInARow)
	before, err := processorTime(n.agent.Process.Pid)
	if err != nil {
		return err
	}
	took, err := n.attach(row)
	if err != nil {
		return err
	}
	after, err := processorTime(n.agent.Process.Pid)
	if err != nil {
		return err
	}
	how := fmt.Sprintf("%d in a row, process of the plugin from start to end; pods and identity known, 30 pods there before", podsInARow)
	e.Add(bench.Quantile("CNI ADD p50", "ms", 0.5, took).Below(5).By("%s", how), bench.Quantile("CNI ADD p99", "ms", 0.99, took).Below(15).By("%s", how),
		bench.Single("processor time of the agent for an ADD", "ms", ms(after-before)/podsInARow).By("with all that follows from it"))
	if _, err := n.attach(pods("many", podsMany-30-podsInARow)); err != nil {
		return err
	}
	many, err := memory(fmt.Sprintf("%d pods", podsMany))
	if err != nil {
		return err
	}
	var restarts, worked []float64
	for range e.rounds(9) {
		n.stop()
		t, err := n.start(ctx)
		if err != nil {
			return err
		}
		cpu, err := processorTime(n.agent.Process.Pid)
		if err != nil {
			return err
		}
		restarts, worked = append(restarts, ms(t)), append(worked, ms(cpu))
	}
	again, err := memory(fmt.Sprintf("%d pods, after a restart", podsMany))
	if err != nil {
		return err
	}
	e.Add(none, few, many.Below(60), again.Below(60),
		bench.Median("restart until all is enforced", "ms", restarts).Below(1000).By("from the start of the process, %d pods", podsMany),
		bench.Median("processor time of the agent for a restart", "ms", worked).By("until all is enforced"))
	return nil
}

// processorTime is what a process has used so far.
func processorTime(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, errors.Join(err, fmt.Errorf("process %d has ended", pid))
	}
	sum := time.Duration(0)
	for _, file := range threads {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		var ns int64
		fmt.Sscan(string(b), &ns)
		sum += time.Duration(ns)
	}
	return sum, nil
}
