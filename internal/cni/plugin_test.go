// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cni/rundir"
)

// TestMain lets this binary be the plugins that the runtime library runs: it is
// linked under their names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "stentor-cni":
		os.Exit(Main("test"))
	case "after":
		os.Exit(afterUs())
	}
	goleak.VerifyTestMain(m)
}

// afterUs is a plugin chained behind ours: it hands on the result that it got.
func afterUs() int {
	stdin, _ := io.ReadAll(os.Stdin)
	var conf struct{ PrevResult json.RawMessage }
	if err := json.Unmarshal(stdin, &conf); err != nil || conf.PrevResult == nil && os.Getenv("CNI_COMMAND") == "ADD" {
		fmt.Println(`{"code":7,"msg":"no prevResult"}`)
		return 1
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		os.Stdout.Write(conf.PrevResult)
	}
	return 0
}

// runtimeFor gives what a container runtime has: the library, the list, a pod.
func runtimeFor(t *testing.T, version, socket string, wait int) (*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) {
	t.Helper()
	t.Setenv("CNI_NETNS_OVERRIDE", "1") // no namespace is made here
	bin, cache := t.TempDir(), t.TempDir()
	for _, name := range []string{"stentor-cni", "after"} {
		if err := os.Symlink(must(os.Executable())(t), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, `{"cniVersion":%q,"name":"stentor","plugins":[
		{"type":"stentor-cni","socket":%q,"waitSeconds":%d},{"type":"after"}]}`, version, socket, wait))
	if err != nil {
		t.Fatal(err)
	}
	return libcni.NewCNIConfigWithCacheDir([]string{bin}, cache, nil), list, &libcni.RuntimeConf{
		ContainerID: "c1", NetNS: "/var/run/netns/c1", IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "xwing"},
			{"K8S_POD_INFRA_CONTAINER_ID", "c1"}, {"K8S_POD_UID", "u1"}},
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

var attachment = rest.CNIRequest{
	ContainerID: "c1", NetNS: "/var/run/netns/c1", IfName: "eth0",
	PodNamespace: "default", PodName: "xwing", PodUID: "u1",
}

func TestTheRuntimeAddsChecksAndDeletesInEveryVersion(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			agent := newAgent(t)
			agent.start(t)
			cni, list, pod := runtimeFor(t, version, agent.socket, 1)
			res, err := cni.AddNetworkList(t.Context(), list, pod)
			if err != nil {
				t.Fatal(err)
			}
			got := must(current.NewResultFromResult(res))(t)
			wantResult(t, got)
			want := []call{{Path: rest.PathCNIAdd, Req: attachment}}
			if version != "0.3.1" {
				if err := cni.CheckNetworkList(t.Context(), list, pod); err != nil {
					t.Fatal(err)
				}
				check := attachment
				check.Addresses = []string{"10.0.1.7/32", "fd00:1::7/128"}
				want = append(want, call{Path: rest.PathCNICheck, Req: check})
			}
			if err := cni.DelNetworkList(t.Context(), list, pod); err != nil {
				t.Fatal(err)
			}
			want = append(want, call{Path: rest.PathCNIDel, Req: attachment})
			if d := cmp.Diff(want, agent.seen()); d != "" {
				t.Error(d)
			}
		})
	}
}

func wantResult(t *testing.T, got *current.Result) {
	t.Helper()
	if len(got.Interfaces) != 2 || got.Interfaces[0].Name != "st0001" || got.Interfaces[0].Sandbox != "" ||
		got.Interfaces[1].Name != "eth0" || got.Interfaces[1].Mac != "02:00:00:00:00:02" ||
		got.Interfaces[1].Sandbox != "/var/run/netns/c1" {
		t.Errorf("interfaces %v", got.Interfaces)
	}
	var text []string
	for _, ip := range got.IPs {
		text = append(text, fmt.Sprint(ip.Address.String(), " via ", ip.Gateway, " on ", *ip.Interface))
	}
	for _, r := range got.Routes {
		text = append(text, fmt.Sprint("route ", r.Dst.String(), " via ", r.GW))
	}
	want := []string{"10.0.1.7/32 via 10.0.1.1 on 1", "fd00:1::7/128 via fd00:1::1 on 1",
		"route 0.0.0.0/0 via 10.0.1.1", "route ::/0 via fd00:1::1"}
	if d := cmp.Diff(want, text); d != "" {
		t.Error(d)
	}
}

func TestAddWaitsForAnAgentThatIsStarting(t *testing.T) {
	agent := newAgent(t)
	cni, list, pod := runtimeFor(t, "1.0.0", agent.socket, 30)
	done := make(chan error, 1)
	go func() {
		_, err := cni.AddNetworkList(context.Background(), list, pod)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("ADD ended without an agent: %v", err)
	case <-time.After(300 * time.Millisecond): // the call runs in a process of its own: nothing to wait for
	}
	agent.start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAddWithoutAnAgentAsksTheRuntimeToTryAgain(t *testing.T) {
	agent := newAgent(t)
	cni, list, pod := runtimeFor(t, "1.0.0", agent.socket, 1)
	_, err := cni.AddNetworkList(t.Context(), list, pod)
	wantCode(t, err, types.ErrTryAgainLater)
}

func TestTheAgentsRefusalReachesTheRuntime(t *testing.T) {
	agent := newAgent(t)
	agent.refuse[rest.PathCNIAdd] = &rest.CNIError{Code: rest.CNINoAddress, Msg: "no address left", Details: "10.0.1.0/24"}
	agent.start(t)
	cni, list, pod := runtimeFor(t, "1.1.0", agent.socket, 1)
	_, err := cni.AddNetworkList(t.Context(), list, pod)
	e := wantCode(t, err, rest.CNINoAddress)
	if e.Msg != "no address left" || e.Details != "10.0.1.0/24" {
		t.Errorf("got %+v", e)
	}
}

func TestADeletionWithoutAnAgentIsQueuedAndDrainedOnce(t *testing.T) {
	agent := newAgent(t)
	cni, list, pod := runtimeFor(t, "1.0.0", agent.socket, 1)
	for range 2 { // runtimes repeat deletions
		if err := cni.DelNetworkList(t.Context(), list, pod); err != nil {
			t.Fatal(err)
		}
	}
	var got []rest.CNIRequest
	dir := rundir.Dir(filepath.Dir(agent.socket))
	for range 2 {
		if err := dir.DrainDeletions(func(r rest.CNIRequest) error { got = append(got, r); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]rest.CNIRequest{attachment}, got); d != "" {
		t.Error(d)
	}
}

func TestStatusToleratesAShortAbsenceOnly(t *testing.T) {
	agent := newAgent(t)
	cni, list, _ := runtimeFor(t, "1.1.0", agent.socket, 1)
	e := wantCode(t, cni.GetStatusNetworkList(t.Context(), list), types.ErrPluginNotAvailable)
	if !strings.Contains(e.Msg, "never ready") {
		t.Errorf("got %v", e)
	}
	agent.start(t)
	if err := cni.GetStatusNetworkList(t.Context(), list); err != nil {
		t.Errorf("with the agent: %v", err)
	}
	agent.server.Close()
	if err := cni.GetStatusNetworkList(t.Context(), list); err != nil {
		t.Errorf("agent just gone: %v", err)
	}
	old := time.Now().Add(-31 * time.Second)
	if err := os.Chtimes(filepath.Join(filepath.Dir(agent.socket), "ready"), old, old); err != nil {
		t.Fatal(err)
	}
	wantCode(t, cni.GetStatusNetworkList(t.Context(), list), types.ErrPluginNotAvailable)
	agent.refuse[rest.PathCNIStatus] = &rest.CNIError{Code: rest.CNILimitedConnectivity, Msg: "no datapath"}
	agent.start(t)
	wantCode(t, cni.GetStatusNetworkList(t.Context(), list), types.ErrLimitedConnectivity)
}

func TestGCPassesTheAttachmentsInUse(t *testing.T) {
	agent := newAgent(t)
	agent.start(t)
	cni, list, pod := runtimeFor(t, "1.1.0", agent.socket, 1)
	if _, err := cni.AddNetworkList(t.Context(), list, pod); err != nil {
		t.Fatal(err)
	}
	valid := []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}
	if err := cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		t.Fatal(err)
	}
	calls := agent.seen()
	want := call{Path: rest.PathCNIGC, GC: rest.CNIGCRequest{ValidAttachments: []rest.CNIAttachment{{ContainerID: "c1", IfName: "eth0"}}}}
	if d := cmp.Diff(want, calls[len(calls)-1]); d != "" {
		t.Error(d)
	}
}

func TestWrongInputIsNamedByItsCode(t *testing.T) {
	conf := `{"cniVersion":"1.1.0","name":"n","type":"stentor-cni","socket":"/nowhere/s","waitSeconds":1%s}`
	plain := fmt.Sprintf(conf, "")
	env := func(command string, more ...string) []string {
		return append([]string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/none", "CNI_IFNAME=eth0", "CNI_PATH=/none"}, more...)
	}
	for _, c := range []struct {
		name, stdin string
		env         []string
		code        uint
	}{
		{"no verb", plain, []string{"CNI_CONTAINERID=c1"}, 0},
		{"unknown verb", plain, env("DANCE"), types.ErrInvalidEnvironmentVariables},
		{"no container", plain, []string{"CNI_COMMAND=ADD", "CNI_PATH=/none"}, types.ErrInvalidEnvironmentVariables},
		{"interface name with a slash", plain, env("ADD", "CNI_IFNAME=a/b"), types.ErrInvalidEnvironmentVariables},
		{"arguments without =", plain, env("ADD", "CNI_ARGS=K8S"), types.ErrInvalidEnvironmentVariables},
		{"pod without namespace", plain, env("ADD", "CNI_ARGS=K8S_POD_NAME=a"), types.ErrInvalidEnvironmentVariables},
		{"not JSON", "{", env("ADD"), types.ErrDecodingFailure},
		{"socket is a number", `{"cniVersion":"1.0.0","name":"n","socket":1}`, env("ADD"), types.ErrDecodingFailure},
		{"no network name", `{"cniVersion":"1.0.0"}`, env("ADD"), types.ErrInvalidNetworkConfig},
		{"relative socket", `{"cniVersion":"1.0.0","name":"n","socket":"s"}`, env("ADD"), types.ErrInvalidNetworkConfig},
		{"endless wait", `{"cniVersion":"1.0.0","name":"n","waitSeconds":99999}`, env("ADD"), types.ErrInvalidNetworkConfig},
		{"version of another time", `{"cniVersion":"7.0.0","name":"n"}`, env("ADD"), types.ErrIncompatibleCNIVersion},
		{"not the first plugin", fmt.Sprintf(conf, `,"prevResult":{"cniVersion":"1.1.0"}`), env("ADD"), types.ErrInvalidNetworkConfig},
		{"the node's own namespace", plain, env("ADD", "CNI_NETNS=/proc/self/ns/net"), types.ErrInvalidNetNS},
		{"a namespace that is not there", plain, env("ADD"), types.ErrInvalidNetNS},
		{"a namespace that is a file", plain, env("ADD", "CNI_NETNS=/etc/passwd"), types.ErrInvalidNetNS},
		{"no namespace", plain, env("ADD", "CNI_NETNS="), types.ErrInvalidEnvironmentVariables},
		{"nothing on standard input", "", env("ADD"), types.ErrDecodingFailure},
		{"binary on standard input", "\x00\xff\x1b[2J", env("ADD"), types.ErrDecodingFailure},
		{"a list instead of a plugin", "[" + plain + "]", env("ADD"), types.ErrDecodingFailure},
		{"CHECK without a result", plain, env("CHECK"), types.ErrInvalidNetworkConfig},
		{"CHECK of a result that is none", fmt.Sprintf(conf, `,"prevResult":{"ips":7}`), env("CHECK"), types.ErrInvalidNetworkConfig},
		{"CHECK of another interface", fmt.Sprintf(conf, `,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"lo","sandbox":"/none"}]}`), env("CHECK"), types.ErrInvalidNetworkConfig},
		{"CHECK of another sandbox", fmt.Sprintf(conf, `,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}]}`), env("CHECK"), types.ErrInvalidNetNS},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := runPlugin(t, c.stdin, c.env)
			if c.code == 0 {
				if out != "" || code != 0 {
					t.Fatalf("exit %d, %s", code, out)
				}
				return
			}
			var e types.Error
			if err := json.Unmarshal([]byte(out), &e); err != nil {
				t.Fatalf("not one JSON error: %v\n%s", err, out)
			}
			if e.Code != c.code || e.Msg == "" || code != 1 {
				t.Errorf("exit %d, %+v, want code %d", code, e, c.code)
			}
		})
	}
}

func TestVersionListsWhatIsSpoken(t *testing.T) {
	out, code := runPlugin(t, "", []string{"CNI_COMMAND=VERSION"})
	if code != 0 || !strings.Contains(out, `"supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("exit %d, %s", code, out)
	}
}

func runPlugin(t *testing.T, stdin string, env []string) (stdout string, code int) {
	t.Helper()
	link := filepath.Join(t.TempDir(), "stentor-cni")
	if err := os.Symlink(must(os.Executable())(t), link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), link)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func wantCode(t *testing.T, err error, code uint) *types.Error {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("got %v (%#v), want code %d", err, err, code)
	}
	return e
}
