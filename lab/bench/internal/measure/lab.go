// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stentor-net/stentor/lab/internal/kubeapi"
)

// labEnv is a lab that is up.
type labEnv struct {
	name  string
	tool  string // stentor-lab
	kube  *kubeapi.Client
	owned bool // brought up here
}

// withLab brings the lab up, unless it is.
func (e *Env) withLab(ctx context.Context) (*labEnv, error) {
	if e.lab != nil {
		return e.lab, nil
	}
	l := &labEnv{name: e.Lab, tool: filepath.Join(e.Bin, "stentor-lab")}
	if _, err := os.Stat(l.tool); err != nil {
		return nil, fmt.Errorf("%w (make lab)", err)
	}
	if _, err := l.run(ctx, "status", "--name", l.name); err != nil {
		fmt.Fprintf(e.Log, "  bringing the lab %q up\n", l.name)
		l.owned = true
		defer func() {
			if e.lab == nil {
				e.takeDown(l) // half of it may be there
			}
		}()
		if _, err := l.run(ctx, "up", "--name", l.name, "--nodes", "2"); err != nil {
			return nil, err
		}
	}
	e.lab = l // from here on closeLab takes it down
	config, err := l.run(ctx, "kubeconfig", "--name", l.name)
	if err != nil {
		return nil, err
	}
	l.kube, err = kubeapi.New(strings.TrimSpace(config))
	return l, err
}

// closeLab takes down what withLab brought up.
func (e *Env) closeLab() {
	if e.lab != nil && e.lab.owned {
		e.takeDown(e.lab)
	}
	e.lab = nil
}

func (e *Env) takeDown(l *labEnv) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // also after an interrupt
	defer cancel()
	if _, err := l.run(ctx, "down", "--name", l.name); err != nil {
		fmt.Fprintf(e.Log, "%v\n", err)
	}
}

func (l *labEnv) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.tool, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("stentor-lab %s: %w\n%s%s", strings.Join(args, " "), err, out, exit.Stderr)
	}
	return string(out), err
}

// node is a process of this program on a node of the lab: it does what must be
// done there, one request after the other.
type labNode struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs strings.Builder
}

// node starts it.
func (l *labEnv) node(name string) (*labNode, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n := &labNode{name: name, cmd: exec.Command(l.tool, "exec", "--name", l.name, name, "--", self, "onnode")}
	n.cmd.Stderr = &n.errs
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	n.out = bufio.NewReader(out)
	return n, n.cmd.Start()
}

// close ends the process, which undoes what it did to the node.
func (n *labNode) close() {
	n.in.Close()
	_ = n.cmd.Wait()
}

// ask sends a request and waits for its answer.
func (n *labNode) ask(r request) (answer, error) {
	var a answer
	b, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	if _, err := n.in.Write(append(b, '\n')); err != nil {
		return a, fmt.Errorf("%s: %s: %w %s", n.name, r.Do, err, n.errs.String())
	}
	line, err := n.out.ReadBytes('\n')
	if err != nil {
		return a, fmt.Errorf("%s: %s: %w %s", n.name, r.Do, err, n.errs.String())
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("%s: %s: %w", n.name, r.Do, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %s: %s", n.name, r.Do, a.Error)
	}
	return a, nil
}

// benchNamespace is where the pods of the measurements are.
const benchNamespace = "stentor-bench"

// namespace makes it empty; undo removes it.
func (l *labEnv) namespace(ctx context.Context) (undo func(), err error) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchNamespace}}
	if _, err := l.kube.Set.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create namespace %s (left over? kubectl delete namespace %[1]s): %w", benchNamespace, err)
	}
	undo = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = l.deletePods(ctx)
		_ = l.kube.Set.CoreV1().Namespaces().Delete(ctx, benchNamespace, metav1.DeleteOptions{})
		_ = kubeapi.Wait(ctx, "the namespace to go", func(ctx context.Context) (bool, error) {
			_, err := l.kube.Set.CoreV1().Namespaces().Get(ctx, benchNamespace, metav1.GetOptions{})
			return err != nil, nil
		})
	}
	// A pod needs the account that the controller makes.
	err = kubeapi.Wait(ctx, "the service account of the namespace", func(ctx context.Context) (bool, error) {
		_, err := l.kube.Set.CoreV1().ServiceAccounts(benchNamespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	})
	if err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// deletePods removes the pods at once, also where no kubelet would.
func (l *labEnv) deletePods(ctx context.Context) error {
	now := int64(0)
	return l.kube.Set.CoreV1().Pods(benchNamespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
}

// pod is one of a node that does nothing.
func benchPod(name, node string, labels map[string]string) *corev1.Pod {
	grace, token := int64(0), false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: benchNamespace, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &token,
			Containers: []corev1.Container{{Name: "pause", Image: "pause:dev", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
}

// create makes pods in the API.
func (l *labEnv) create(ctx context.Context, pods []*corev1.Pod) ([]podRef, error) {
	var out []podRef
	for _, p := range pods {
		made, err := l.kube.Set.CoreV1().Pods(benchNamespace).Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		out = append(out, podRef{Name: made.Name, UID: string(made.UID)})
	}
	return out, nil
}
