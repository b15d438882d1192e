// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/plan"
)

// matrixEnv makes TestConnectivityMatrix run: it takes a quarter of an hour.
const matrixEnv = "STENTOR_E2E_MATRIX"

// testNamespaces are those that `stentor connectivity` makes unless told otherwise.
var testNamespaces = []string{"stentor-test", "stentor-test-other"}

// connectivityReport is what these stories read of `connectivity test -o json`.
type connectivityReport struct {
	OK                      bool
	Passed, Failed, Skipped int
	Duration                time.Duration
	Results                 []struct {
		Name, Verdict, Reason string
		Failures              []string
		Flows                 []struct {
			ReasonText string
			Policies   []string
		}
	}
}

// outsideTargets of the command, by both ways.
func (s *setup) externalFlag() string {
	var out []string
	for _, p := range slices.Concat(s.plan.Outside, s.plan.Narrow) {
		out = append(out, p.Addr().String())
	}
	return "--external-target=" + strings.Join(out, ",")
}

// runConnectivity runs the command to its end.
func (s *setup) runConnectivity(args ...string) (r connectivityReport, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := s.cli(ctx, append([]string{"connectivity", "test", "-o", "json"}, args...)...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		s.t.Fatalf("connectivity test: %v\n%s\n%s", err, talk.String(), out.String())
	}
	s.t.Logf("%d passed, %d failed, %d skipped in %.1f s", r.Passed, r.Failed, r.Skipped, r.Duration.Seconds())
	if err != nil {
		return r, cmd.ProcessState.ExitCode()
	}
	return r, 0
}

func (s *setup) noTestNamespaces() {
	s.t.Helper()
	for _, ns := range testNamespaces {
		_, err := s.kube.Set.CoreV1().Namespaces().Get(context.Background(), ns, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			s.t.Errorf("namespace %s is left: %v", ns, err)
		}
	}
}

// checks: the product's own connectivity test finds everything well.
func (s *setup) checks() {
	s.needsAgent()
	r, code := s.runConnectivity(s.externalFlag())
	for _, x := range r.Results {
		if x.Verdict != "passed" && !s.mayBeSkipped(x.Name) {
			s.t.Errorf("%s %s: %s %s", x.Name, x.Verdict, x.Reason, strings.Join(x.Failures, "\n  "))
		}
	}
	if code != 0 || !r.OK || r.Passed < 20 {
		s.t.Errorf("exit code %d, %d checks passed", code, r.Passed)
	}
	if r.Duration > time.Minute {
		s.t.Errorf("it took %v", r.Duration)
	}
	s.noTestNamespaces()
}

// mayBeSkipped: with one node there is no other.
func (s *setup) mayBeSkipped(name string) bool {
	return len(s.plan.Nodes) == 1 && (strings.Contains(name, "other-node") || strings.Contains(name, "node-to-node") || name == "fragments-to-node")
}

// checksFail: a policy in the way makes the test fail, and the test names it.
func (s *setup) checksFail() {
	s.needsAgent()
	policy := `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: stentor-test, name: in-the-way}
spec: {endpointSelector: {matchLabels: {role: server}}, ingress: [{}]}
`
	var both sync.WaitGroup
	both.Go(func() {
		s.wait(time.Minute, "the namespace of the test", func(ctx context.Context) (bool, error) {
			return s.kube.Apply(ctx, policy) == nil, nil
		})
	})
	r, code := s.runConnectivity("--test", "^pod-to-pod,to-own-node,to-other-node")
	both.Wait()
	if code != 1 || r.OK || r.Failed != 2 || r.Passed != 2 {
		s.t.Errorf("exit code %d, %+v", code, r)
	}
	for _, x := range r.Results {
		if x.Verdict != "failed" {
			continue
		}
		if len(x.Failures) == 0 || len(x.Flows) == 0 || x.Flows[0].ReasonText != "Policy denied" || !strings.Contains(fmt.Sprint(x.Flows[0].Policies), "in-the-way") {
			s.t.Errorf("%s: %q, flows %+v", x.Name, x.Failures, x.Flows)
		}
	}
	s.noTestNamespaces()
}

// checksInterrupted: Ctrl-C ends the test, which cleans up all the same.
func (s *setup) checksInterrupted() {
	s.needsAgent()
	cmd := s.cli(context.Background(), "connectivity", "test", "--test", "policy")
	talk := &watched{at: "ready", seen: make(chan struct{})}
	cmd.Stderr = talk
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-talk.seen:
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			s.t.Error(err)
		}
	case err := <-ended:
		s.t.Fatalf("it ended before: %v\n%s", err, talk.String())
	case <-time.After(time.Minute):
		s.t.Errorf("it did not get ready\n%s", talk.String())
		_ = cmd.Process.Kill()
	}
	err := <-ended
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(talk.String(), "cleaning up") {
		s.t.Errorf("exit code %d, %v\n%s", code, err, talk.String())
	}
	s.noTestNamespaces()
}

// watched tells when a text was written.
type watched struct {
	mu   sync.Mutex
	b    bytes.Buffer
	at   string
	seen chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p)
	if w.at != "" && strings.Contains(w.b.String(), w.at) {
		w.at = ""
		close(w.seen)
	}
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// TestConnectivityMatrix runs the connectivity test in every kind of lab.
func TestConnectivityMatrix(t *testing.T) {
	if os.Getenv(matrixEnv) == "" {
		t.Skip("make connectivity-matrix")
	}
	for _, nodes := range []string{"2", "3"} {
		for _, mode := range []string{"tunnel", "native"} {
			for _, family := range []string{plan.Dual, plan.IPv4, plan.IPv6} {
				t.Run(strings.Join([]string{nodes, mode, family}, "-"), func(t *testing.T) {
					s := bringUp(t, "m"+nodes+mode[:1]+family, "--nodes", nodes, "--routing-mode", mode, "--ip-family", family)
					s.story(t, "checks", (*setup).checks)
				})
			}
		}
	}
}
