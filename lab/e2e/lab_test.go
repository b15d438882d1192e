// SPDX-License-Identifier: Apache-2.0

// Package e2e runs labs as a person does, with the built binaries.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/kubeapi"
)

// lab is a lab under test.
type lab struct {
	t    *testing.T
	bin  string // folder of the binaries
	name string
	dir  string // state folder
	kube *kubeapi.Client
}

// newLab skips the test where no lab can run, saying why.
func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	bin := os.Getenv("STENTOR_BIN")
	if bin == "" {
		var err error
		if bin, err = filepath.Abs("../../bin"); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []string{"stentor-lab", "stentor-kube", "stentor-app", "stentor-pause", "coredns"} {
		if _, err := os.Stat(filepath.Join(bin, b)); err != nil {
			t.Skipf("no %s in %s (make lab builds it; STENTOR_BIN names another folder)", b, bin)
		}
	}
	for _, p := range []string{"containerd", "runc", "nft", "iptables"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("no %s here: apt-get install -y containerd runc containernetworking-plugins nftables iptables", p)
		}
	}
	return &lab{t: t, bin: bin, name: fmt.Sprintf("t%d", os.Getpid()), dir: t.TempDir()}
}

func (l *lab) command(args ...string) *exec.Cmd {
	verb, rest := args[0], args[1:]
	all := append([]string{verb, "--name", l.name, "--state-dir", l.dir}, rest...)
	return exec.Command(filepath.Join(l.bin, "stentor-lab"), all...)
}

// run runs stentor-lab and returns what it printed and its exit code.
func (l *lab) run(args ...string) (string, int) {
	l.t.Helper()
	cmd := l.command(args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		l.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (l *lab) must(args ...string) string {
	l.t.Helper()
	out, code := l.run(args...)
	if code != 0 {
		l.t.Fatalf("stentor-lab %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (l *lab) connect() {
	l.t.Helper()
	var err error
	if l.kube, err = kubeapi.New(strings.TrimSpace(l.must("kubeconfig"))); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) apply(yaml string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := kubeapi.Wait(ctx, "manifests to be accepted", func(ctx context.Context) (bool, error) {
		err := l.kube.Apply(ctx, yaml)
		return err == nil, err
	}); err != nil {
		l.t.Fatal(err)
	}
}

// ready waits for pods and returns their addresses, IPv4 first.
func (l *lab) ready(names ...string) map[string][]netip.Addr {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out := map[string][]netip.Addr{}
	err := kubeapi.Wait(ctx, "pods", func(ctx context.Context) (bool, error) {
		for _, n := range names {
			p, err := l.kube.Set.CoreV1().Pods("default").Get(ctx, n, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			ok := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
			if !ok {
				return false, fmt.Errorf("pod %s is not ready", n)
			}
			out[n] = nil
			for _, ip := range p.Status.PodIPs {
				out[n] = append(out[n], netip.MustParseAddr(ip.IP))
			}
		}
		return true, nil
	})
	if err != nil {
		l.t.Fatalf("%v\n%s", err, l.kube.Diagnose(context.Background()))
	}
	return out
}

// inPod runs a command until it succeeds, for at most ten seconds: proxies
// and caches follow a change, they do not lead it.
func (l *lab) inPod(pod string, command ...string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var out string
	err := kubeapi.Wait(ctx, strings.Join(command, " "), func(ctx context.Context) (bool, error) {
		stdout, stderr, err := l.kube.Exec(ctx, "default", pod, command...)
		out = stdout
		if err != nil {
			return false, fmt.Errorf("%w: %s%s", err, stdout, stderr)
		}
		return true, nil
	})
	if err != nil {
		l.t.Errorf("in pod %s: %v", pod, err)
	}
	return strings.TrimSpace(out)
}

const appPods = `
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {nodeName: node1, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "stentor-app:dev", imagePullPolicy: Never, readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: b}}
spec: {nodeName: node2, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "stentor-app:dev", imagePullPolicy: Never, readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}
`

func TestLabComesUpAndGoesDownWithoutTrace(t *testing.T) {
	l := newLab(t)
	links := linkNames(t)
	t.Cleanup(func() { l.run("down") })
	up := []string{"up", "--cni", "bridge", "--timeout", "90s"}
	t.Log(l.must(up...))
	l.connect()
	l.apply(appPods)
	addrs := l.ready("a", "b")
	t.Run("pods on two nodes reach each other", func(t *testing.T) {
		if len(addrs["b"]) != 2 {
			t.Fatalf("pod b has addresses %v, want one of each family", addrs["b"])
		}
		for _, ip := range addrs["b"] {
			l.in(t).inPod("a", "ping", "-c1", "-W1", ip.String())
			if got := l.in(t).inPod("a", "curl", "-sS", "-m2", "http://"+netip.AddrPortFrom(ip, 80).String()+"/hostname"); got != "b" {
				t.Errorf("%s answers %q, want b", ip, got)
			}
		}
	})
	t.Run("a service answers by its name in both families", func(t *testing.T) {
		for _, f := range []string{"-4", "-6"} {
			if got := l.in(t).inPod("a", "curl", "-sS", "-m2", f, "http://b.default.svc.cluster.local/hostname"); got != "b" {
				t.Errorf("curl %s answers %q, want b", f, got)
			}
		}
	})
	t.Run("outside sees a pod with its node's address", func(t *testing.T) { l.in(t).outsideSeesNode() })
	t.Run("a pod with named capabilities can do what an agent does", func(t *testing.T) { l.in(t).rights() })
	t.Run("exec passes input and exit code", func(t *testing.T) { l.in(t).execPasses() })
	t.Run("up again changes nothing and refuses other options", func(t *testing.T) {
		l.in(t).must(up...)
		l.in(t).ready("a", "b")
		if out, code := l.run("up", "--cni", "bridge", "--nodes", "3"); code != 1 || !strings.Contains(out, "other options") {
			t.Errorf("up --nodes 3: exit code %d: %s", code, out)
		}
	})
	t.Run("up after a crash starts anew", func(t *testing.T) {
		l := l.in(t)
		l.killNode("node1")
		if out, code := l.run("status"); code != 1 {
			t.Errorf("status of a broken lab: exit code %d\n%s", code, out)
		}
		l.must(up...)
		l.must("status")
	})
	l.must("down")
	l.noTrace(links)
}

// in is the lab as seen from a subtest.
func (l *lab) in(t *testing.T) *lab {
	c := *l
	c.t = t
	return &c
}

func (l *lab) outsideSeesNode() {
	srv := l.command("exec", "outside", "--", filepath.Join(l.bin, "stentor-app"), "http", "-listen", ":8080")
	if err := srv.Start(); err != nil {
		l.t.Fatal(err)
	}
	defer func() {
		srv.Process.Kill()
		srv.Wait()
	}()
	for url, want := range map[string]string{
		"http://172.31.0.10:8080/ip":   "172.30.0.11",
		"http://[fd00:31::10]:8080/ip": "fd00:30::11",
	} {
		if got := l.inPod("a", "curl", "-sS", "-m2", url); got != want {
			l.t.Errorf("%s sees %q, want %q", url, got, want)
		}
	}
}

const rightsPod = `
apiVersion: v1
kind: Pod
metadata: {name: rights}
spec:
  nodeName: node1
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: c
    image: stentor-app:dev
    imagePullPolicy: Never
    args: [rights, -cgroup=/host/cgroup, -sysctl=/host/sysctl]
    securityContext: {capabilities: {drop: [ALL], add: [BPF, NET_ADMIN, NET_RAW, PERFMON, SYS_ADMIN]}}
    volumeMounts:
    - {name: bpffs, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}
    - {name: cgroup, mountPath: /host/cgroup}
    - {name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}
    - {name: sysctl, mountPath: /host/sysctl}
  volumes:
  - {name: bpffs, hostPath: {path: /sys/fs/bpf}}
  - {name: cgroup, hostPath: {path: CGROUP}}
  - {name: netns, hostPath: {path: /run/netns}}
  - {name: sysctl, hostPath: {path: /proc/sys/net}}
`

func (l *lab) rights() {
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	l.apply(strings.ReplaceAll(rightsPod, "CGROUP", root))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pods := l.kube.Set.CoreV1().Pods("default")
	if err := kubeapi.Wait(ctx, "pod to end", func(ctx context.Context) (bool, error) {
		p, err := pods.Get(ctx, "rights", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		switch p.Status.Phase {
		case corev1.PodSucceeded:
			return true, nil
		case corev1.PodFailed:
			return false, &kubeapi.FatalError{Err: fmt.Errorf("the pod failed")}
		}
		return false, fmt.Errorf("pod is %s", p.Status.Phase)
	}); err != nil {
		log, _ := pods.GetLogs("rights", &corev1.PodLogOptions{}).DoRaw(context.Background())
		l.t.Errorf("%v\n%s", err, log)
	}
}

func (l *lab) execPasses() {
	cmd := l.command("exec", "node2", "--", "sh", "-c", "read x; echo $x from $(hostname); exit 7")
	cmd.Stdin = strings.NewReader("word\n")
	var out bytes.Buffer
	cmd.Stdout = &out
	_ = cmd.Run()
	if got := out.String(); got != "word from node2\n" || cmd.ProcessState.ExitCode() != 7 {
		l.t.Errorf("got %q and exit code %d, want \"word from node2\" and 7", got, cmd.ProcessState.ExitCode())
	}
}

func (l *lab) killNode(name string) {
	l.t.Helper()
	var s struct {
		Nodes map[string]struct{ Pid int }
	}
	b, err := os.ReadFile(filepath.Join(l.dir, l.name, "state.json"))
	if err != nil {
		l.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		l.t.Fatal(err)
	}
	p, err := os.FindProcess(s.Nodes[name].Pid)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := kubeapi.Wait(ctx, name+" to end", func(context.Context) (bool, error) {
		return len(l.processes("/"+name)) == 0, nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

// processes lists those in the lab's cgroups whose path goes on with suffix,
// and those that name the lab's folder.
func (l *lab) processes(suffix string) []string {
	var out []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		cg, _ := os.ReadFile(d + "/cgroup")
		args, _ := os.ReadFile(d + "/cmdline")
		if strings.Contains(string(cg), "stentor-lab-"+l.name+suffix) ||
			suffix == "" && strings.Contains(string(args), filepath.Join(l.dir, l.name)) {
			out = append(out, filepath.Base(d)+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return out
}

func linkNames(t *testing.T) []string {
	t.Helper()
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range ifs {
		out = append(out, i.Name)
	}
	slices.Sort(out)
	return out
}

// noTrace fails for everything of the lab that is still there.
func (l *lab) noTrace(links []string) {
	t := l.t
	t.Helper()
	// The machine's init may take a moment to collect what has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := kubeapi.Wait(ctx, "processes to end", func(context.Context) (bool, error) {
		p := l.processes("")
		if len(p) > 0 {
			return false, fmt.Errorf("processes are left:\n%s", strings.Join(p, "\n"))
		}
		return true, nil
	}); err != nil {
		t.Error(err)
	}
	for what, pattern := range map[string]string{
		"network namespaces": "/run/netns/st-" + l.name + "-*",
		"cgroups":            "/sys/fs/cgroup/*/stentor-lab-" + l.name,
		"cgroups at the top": "/sys/fs/cgroup/stentor-lab-" + l.name,
		"files":              filepath.Join(l.dir, "*"),
	} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("%s are left: %v", what, left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "st-"+l.name+"-") || strings.Contains(line, l.dir) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	if now := linkNames(t); !slices.Equal(now, links) {
		t.Errorf("links of the machine: %v, before: %v", now, links)
	}
}
