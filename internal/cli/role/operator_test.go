// SPDX-License-Identifier: Apache-2.0

package role

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/operator"
)

// options runs the command on a directory with the given files.
func options(t *testing.T, files map[string]string, args ...string) (operator.Options, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var got operator.Options
	var out strings.Builder
	f := &command.Factory{Version: "v1", Streams: command.Streams{Out: &out, Err: &out}}
	cmd := NewCmdOperator(f, func(_ context.Context, o operator.Options) error { got = o; return nil })
	cmd.SetArgs(append([]string{"--config-dir", dir}, args...))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	got.Log = nil
	return got, err
}

func TestTheOperatorReadsTheClustersConfiguration(t *testing.T) {
	t.Setenv("K8S_NAMESPACE", "kube-system")
	t.Setenv("K8S_POD_NAME", "stentor-operator-1")
	t.Setenv("STENTOR_IDENTITY_GC_INTERVAL", "1m")
	got, err := options(t, map[string]string{
		"cluster-pool-ipv4-cidr": "10.244.0.0/16, 10.245.0.0/16\n", "cluster-pool-ipv4-mask-size": "25", "enable-ipv6": "true",
		"cilium-endpoint-gc-interval": "0", "identity-gc-interval": "9m", "routing-mode": "native", "ipam": "kubernetes",
	}, "--ipam", "cluster-pool")
	if err != nil {
		t.Fatal(err)
	}
	want := operator.Options{Namespace: "kube-system", Identity: "stentor-operator-1", IPAM: "cluster-pool", IdentityGCInterval: time.Minute, EndpointGCInterval: -1}
	want.LoadBalancers, want.LoadBalancerDefault = true, true
	want.Version, want.Kubernetes.UserAgent = "v1", "stentor-operator/v1"
	want.PodRanges.IPv4 = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.245.0.0/16")}
	want.PodRanges.IPv4Mask = 25
	want.PodRanges.IPv6 = []netip.Prefix{netip.MustParsePrefix("fd00::/104")}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestAWrongValueIsNamedWithItsKey(t *testing.T) {
	for key, value := range map[string]string{
		"cluster-pool-ipv4-cidr": "10.0.0.0", "cluster-pool-ipv4-mask-size": "x", "identity-gc-interval": "often", "debug": "perhaps",
	} {
		_, err := options(t, map[string]string{key: value})
		if err == nil || !strings.HasPrefix(err.Error(), key+`: "`+value+`" is `) {
			t.Errorf("%s=%s: got %v", key, value, err)
		}
	}
	if _, err := options(t, nil, "--config-dir", "/none"); err == nil {
		t.Error("a directory that is not there was taken")
	}
}
