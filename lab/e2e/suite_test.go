// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/kubeapi"
	"github.com/stentor-net/stentor/lab/internal/plan"
	"github.com/stentor-net/stentor/lab/internal/probe"
)

// Variables of the environment that help whoever works on a story:
//
//	STENTOR_E2E_KEEP=1      leaves the lab up, and uses the one left up before
//	STENTOR_E2E_CNI=bridge  tries the stories on a plain network: those about
//	                        policies must fail, those about the agent are skipped
const (
	keepEnv = "STENTOR_E2E_KEEP"
	cniEnv  = "STENTOR_E2E_CNI"
)

// setup is a lab with running pods that stories share, in one routing mode.
type setup struct {
	*lab
	plan  *plan.Plan
	upArg []string
	drops *dropLog
}

func TestTunnel(t *testing.T) {
	s := bringUp(t, "tunnel", "--routing-mode", "tunnel", "--set", "prometheus.enabled=true", "--set", "operator.prometheus.enabled=true",
		"--set", "k8sClusterNetworkPolicy.enabled=true", "--set", "nodeSelectorLabels=true", "--set", "localRedirectPolicies.enabled=true")
	s.story(t, "demo", (*setup).demo)
	s.story(t, "columns", (*setup).columns)
	s.story(t, "restore", (*setup).restore)
	s.story(t, "connectivity", (*setup).connectivity)
	s.story(t, "services", (*setup).services)
	s.story(t, "services-under-load", (*setup).servicesUnderLoad)
	s.story(t, "affinity", (*setup).affinity)
	s.story(t, "dns", (*setup).dns)
	s.story(t, "no-rules", (*setup).noRules)
	s.story(t, "node-local-dns", (*setup).nodeLocalDNS)
	s.story(t, "load-balancers", (*setup).loadBalancers)
	s.story(t, "client-addresses", func(s *setup) { s.clientAddresses(false) })
	s.story(t, "unused-address", (*setup).unusedAddress)
	s.story(t, "label-change", (*setup).labelChange)
	s.story(t, "running-connections", (*setup).runningConnections)
	s.story(t, "default-deny", (*setup).defaultDeny)
	s.story(t, "namespace-labels", (*setup).namespaceLabels)
	s.story(t, "cluster-policy", (*setup).clusterPolicy)
	s.story(t, "named-peers", (*setup).namedPeers)
	s.story(t, "tiers", (*setup).tiers)
	s.story(t, "audit", (*setup).audit)
	s.story(t, "measured", (*setup).measured)
	s.story(t, "health", (*setup).health)
	s.story(t, "checks", (*setup).checks)
	s.story(t, "checks-fail", (*setup).checksFail)
	s.story(t, "checks-interrupted", (*setup).checksInterrupted)
	s.story(t, "why", (*setup).why)
	s.story(t, "quarantine", (*setup).quarantine)
	s.story(t, "agents-and-status", (*setup).agentsAndStatus)
	s.story(t, "validation", (*setup).validation)
	s.story(t, "policy-kinds", (*setup).policyKinds)
	s.story(t, "cyclonus", (*setup).cyclonus)
	s.story(t, "commands", (*setup).commands)
	s.story(t, "agent-killed", (*setup).agentKilled)
	s.story(t, "agent-away", (*setup).agentAway)
	s.story(t, "size", (*setup).size)
}

func TestNative(t *testing.T) {
	s := bringUp(t, "native", "--routing-mode", "native")
	s.story(t, "demo", (*setup).demo)
	s.story(t, "connectivity", (*setup).connectivity)
	s.story(t, "services", (*setup).services)
	s.story(t, "client-addresses", func(s *setup) { s.clientAddresses(true) })
	s.story(t, "unused-address", (*setup).unusedAddress)
	s.story(t, "label-change", (*setup).labelChange)
	s.story(t, "without-operator", (*setup).withoutOperator)
	s.story(t, "agent-killed", (*setup).agentKilled)
}

func TestIPv6Only(t *testing.T) {
	s := bringUp(t, "six", "--ip-family", "ipv6")
	s.story(t, "demo", (*setup).demo)
	s.story(t, "restore", (*setup).restore)
	s.story(t, "connectivity", (*setup).connectivity)
	s.story(t, "default-deny", (*setup).defaultDeny)
}

// TestHostNamespaceOnly has a lab as meshes want it: sockets of pods are left alone.
func TestHostNamespaceOnly(t *testing.T) {
	soaksServices(t)
	s := bringUp(t, "mesh", "--set", "socketLB.hostNamespaceOnly=true")
	s.story(t, "services", (*setup).services)
	s.story(t, "on-the-wire", (*setup).onTheWire)
	s.story(t, "affinity", (*setup).affinity)
	s.story(t, "dns", (*setup).dns)
	s.story(t, "no-rules", (*setup).noRules)
}

// TestIPv4Only has a lab where a node has so few addresses that they come back
// soon.
func TestIPv4Only(t *testing.T) {
	s := bringUp(t, "four", "--ip-family", "ipv4",
		"--set", "ipam.operator.clusterPoolIPv4MaskSize=29", "--set", "extraConfig.ipam-rest=100ms")
	s.story(t, "reused-source", (*setup).reusedSource)
	s.story(t, "reused-destination", (*setup).reusedDestination)
	s.story(t, "connectivity", (*setup).connectivity)
}

// bringUp makes a lab, which goes with the test.
func bringUp(t *testing.T, name string, options ...string) *setup {
	s := &setup{lab: newLab(t)}
	cni := os.Getenv(cniEnv)
	if cni == "" {
		cni = plan.CNIStentor
	}
	s.name = fmt.Sprintf("e2e%s%d", name[:1], os.Getpid())
	keep := os.Getenv(keepEnv) != ""
	if keep {
		s.name, s.dir = "e2e"+name, plan.DefaultStateRoot
	}
	s.upArg = append([]string{"--cni", cni, "--timeout", "90s"}, options...)
	links := linkNames(t)
	t.Cleanup(func() {
		if keep {
			return
		}
		out, code := s.run("down")
		if code != 0 {
			t.Errorf("stentor-lab down: exit code %d\n%s", code, out)
		}
		s.noTrace(links)
	})
	start := time.Now()
	out, code := s.run(append([]string{"up"}, s.upArg...)...)
	t.Logf("lab in %.1f s\n%s", time.Since(start).Seconds(), out)
	if code != 0 {
		t.Fatalf("stentor-lab up: exit code %d", code)
	}
	var err error
	if s.plan, err = plan.New(plan.Options{Name: s.name, StateRoot: s.dir, CNI: cni, IPFamily: family(options)}); err != nil {
		t.Fatal(err)
	}
	s.connect()
	s.drops = s.watchDrops(t)
	return s
}

func family(options []string) string {
	if i := slices.Index(options, "--ip-family"); i >= 0 {
		return options[i+1]
	}
	return plan.Dual
}

func (s *setup) stentor() bool { return s.plan.CNI == plan.CNIStentor }

// needsAgent skips what only the product can show.
func (s *setup) needsAgent() {
	s.t.Helper()
	if !s.stentor() {
		s.t.Skip("the lab has a plain network")
	}
}

// story runs one part, and tells what helps to understand a failure.
func (s *setup) story(t *testing.T, name string, tell func(*setup)) {
	t.Run(name, func(t *testing.T) {
		c := *s
		c.lab = s.in(t)
		start := time.Now()
		defer func() {
			if t.Failed() {
				t.Log(c.explain(start))
				t.Logf("repeat it alone: cd lab && %s=1 go test ./e2e -count=1 -v -run '^%s$'", keepEnv, strings.ReplaceAll(regexp.QuoteMeta(t.Name()), "/", "$/^"))
			}
		}()
		tell(&c)
	})
}

// explain collects what the cluster has to say since start.
func (s *setup) explain(start time.Time) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b := &strings.Builder{}
	b.WriteString(s.kube.Diagnose(ctx))
	if !s.stentor() {
		return b.String()
	}
	fmt.Fprintf(b, "drops since the story began:\n%s", s.drops.since(start))
	for _, p := range s.agents(ctx) {
		lines := int64(25)
		log, err := s.kube.Set.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{TailLines: &lines}).DoRaw(ctx)
		if err != nil {
			log = []byte(err.Error())
		}
		fmt.Fprintf(b, "last lines of the agent on %s:\n%s\n", p.Spec.NodeName, indent(string(log)))
	}
	return b.String()
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}

// agents are the pods of the agent's DaemonSet.
func (s *setup) agents(ctx context.Context) []corev1.Pod {
	l, err := s.kube.Set.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(l.Items, func(p corev1.Pod) bool {
		return !slices.ContainsFunc(p.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "DaemonSet" })
	})
}

// wait fails the story if the condition does not come true in time.
func (s *setup) wait(limit time.Duration, what string, done func(context.Context) (bool, error)) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := kubeapi.Wait(ctx, what, done); err != nil {
		s.t.Errorf("%v", err)
		return false
	}
	return true
}

// namespace makes a namespace that goes with the story, if the lab is to stay.
func (s *setup) namespace(name string, labels ...string) string {
	s.t.Helper()
	yaml := "apiVersion: v1\nkind: Namespace\nmetadata: {name: \"" + name + "\", labels: {" + strings.Join(labels, ", ") + "}}\n"
	s.apply(yaml)
	s.t.Cleanup(func() {
		if os.Getenv(keepEnv) == "" {
			return // it goes with the lab
		}
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		if err := s.kube.Delete(ctx, yaml); err != nil {
			s.t.Errorf("%v", err)
		}
		s.wait(time.Minute, "namespace "+name+" to go", func(ctx context.Context) (bool, error) {
			_, err := s.kube.Set.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			return err != nil, nil
		})
	})
	return name
}

// pod is the manifest of a pod that serves everything the app can.
func pod(namespace, name, node string, labels ...string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {namespace: %s, name: %s, labels: {%s}}
spec: {nodeName: %s, terminationGracePeriodSeconds: 0, containers: [{name: c, image: "stentor-app:dev", imagePullPolicy: Never, args: [serve], readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}}]}
`, namespace, name, strings.Join(append(labels, "app: "+name), ", "), node)
}

// service is the manifest of a service of one app, with all its ports.
func service(namespace, name string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {namespace: %s, name: %s}
spec:
  selector: {app: %[2]s}
  ipFamilyPolicy: PreferDualStack
  ports: [{name: http, port: 80}, {name: echo, port: 7}, {name: echo-udp, port: 7, protocol: UDP}]
`, namespace, name)
}

// running waits for pods and returns their addresses, IPv4 first.
func (s *setup) running(namespace string, names ...string) map[string][]netip.Addr {
	s.t.Helper()
	out := map[string][]netip.Addr{}
	if !s.wait(40*time.Second, "pods", func(ctx context.Context) (bool, error) {
		for _, n := range names {
			p, err := s.kube.Set.CoreV1().Pods(namespace).Get(ctx, n, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if !kubeapi.PodReady(p) || p.DeletionTimestamp != nil {
				return false, fmt.Errorf("pod %s/%s is not ready", namespace, n)
			}
			out[n] = kubeapi.PodAddrs(p)
		}
		return true, nil
	}) {
		s.t.FailNow()
	}
	return out
}

// vips are the addresses of a service.
func (s *setup) vips(namespace, name string) []netip.Addr {
	s.t.Helper()
	svc, err := s.kube.Set.CoreV1().Services(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []netip.Addr
	for _, ip := range svc.Spec.ClusterIPs {
		out = append(out, netip.MustParseAddr(ip))
	}
	return out
}

// from is a place to probe from: "namespace/pod" or a machine of the lab.
type from string

// probe tries targets from a place, all at once.
func (s *setup) probe(ctx context.Context, at from, timeout time.Duration, targets ...string) ([]probe.Result, error) {
	command := append([]string{"stentor-app", "probe", "-json", "-timeout", timeout.String()}, targets...)
	var out, errs string
	var err error
	if namespace, pod, ok := strings.Cut(string(at), "/"); ok {
		out, errs, err = s.kube.Exec(ctx, namespace, pod, command...)
	} else {
		var o, e bytes.Buffer
		c := s.on(string(at), command...)
		c.Stdout, c.Stderr = &o, &e
		err = c.Run()
		out, errs = o.String(), e.String()
	}
	if err != nil {
		return nil, fmt.Errorf("probe from %s: %w: %s", at, err, strings.TrimSpace(errs))
	}
	var results []probe.Result
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != len(targets) {
		return nil, fmt.Errorf("probe from %s: %d results for %d targets, %w", at, len(results), len(targets), err)
	}
	return results, nil
}

// on prepares a command on a machine of the lab. The app is found there too.
func (s *setup) on(machine string, command ...string) *exec.Cmd {
	if command[0] == "stentor-app" {
		command = slices.Clone(command)
		if machine == "outside" || machine == "fabric" {
			command[0] = filepath.Join(s.bin, "stentor-app")
		}
	}
	return s.command(append([]string{"exec", machine, "--"}, command...)...)
}

// serveOn runs the app's servers on a machine for the rest of the story.
func (s *setup) serveOn(machine string, offset int) {
	s.t.Helper()
	cmd := s.on(machine, "stentor-app", "serve", "-offset", fmt.Sprint(offset))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // the program inside goes with it
		_ = cmd.Wait()
		if s.t.Failed() && out.Len() > 0 {
			s.t.Logf("servers on %s: %s", machine, out.String())
		}
	})
	s.wait(10*time.Second, "servers on "+machine, func(ctx context.Context) (bool, error) {
		r, err := s.probe(ctx, from(machine), time.Second, fmt.Sprintf("http://127.0.0.1:%d/healthz", 80+offset))
		return err == nil && r[0].Outcome == probe.OK, err
	})
}

// dropLog collects what `stentor monitor` says of drops.
type dropLog struct {
	mu    sync.Mutex
	lines []dropLine
}

type dropLine struct {
	at   time.Time
	text string
}

func (d *dropLog) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for line := range strings.Lines(string(b)) {
		d.lines = append(d.lines, dropLine{time.Now(), line})
	}
	return len(b), nil
}

func (d *dropLog) since(start time.Time) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := &strings.Builder{}
	n := 0
	for _, l := range d.lines {
		if l.at.Before(start) {
			continue
		}
		if n++; n <= 30 {
			b.WriteString("  " + l.text)
		}
	}
	if n > 30 {
		fmt.Fprintf(b, "  and %d more\n", n-30)
	}
	return b.String()
}

func (s *setup) watchDrops(t *testing.T) *dropLog {
	d := &dropLog{}
	if !s.stentor() {
		return d
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := s.cli(ctx, "monitor", "--type", "drop")
	cmd.Stdout, cmd.Stderr = d, d
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return d
}

// cli prepares the product's command line, as an administrator has it.
func (s *setup) cli(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "stentor"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.plan.Kubeconfig(), "NO_COLOR=1")
	return cmd
}
