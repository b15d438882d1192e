// SPDX-License-Identifier: Apache-2.0

package role

import (
	"strings"
	"testing"
)

// TestAWrongOptionIsOneLineThatNamesIt goes through both roles, the three places
// where options stand, and both mistakes: a name that is none, a value that is none.
func TestAWrongOptionIsOneLineThatNamesIt(t *testing.T) {
	run := map[string]func(files map[string]string, args ...string) error{
		"agent": func(files map[string]string, args ...string) error {
			_, _, err := runAgent(t, files, args...)
			return err
		},
		"operator": func(files map[string]string, args ...string) error {
			_, err := options(t, files, args...)
			return err
		},
	}
	for _, x := range []struct {
		role, what string
		files      map[string]string
		variable   string
		args       []string
		want       []string
	}{
		{"agent", "name in the ConfigMap", map[string]string{"tunel-port": "1"}, "", nil, []string{"tunel-port", "tunnel-port"}},
		{"agent", "value in the ConfigMap", map[string]string{"tunnel-port": "70000"}, "", nil, []string{"tunnel-port", "70000"}},
		{"agent", "binary value in the ConfigMap", map[string]string{"mtu": "\x00\xff"}, "", nil, []string{"mtu"}},
		{"agent", "name of a variable", nil, "STENTOR_TUNNEL_PROT=1", nil, []string{"STENTOR_TUNNEL_PROT", "tunnel-port"}},
		{"agent", "value of a variable", nil, "STENTOR_ENABLE_IPV4=perhaps", nil, []string{"STENTOR_ENABLE_IPV4", "perhaps"}},
		{"agent", "name of a flag", nil, "", []string{"--tunnel-prot=1"}, []string{"tunnel-prot"}},
		{"agent", "value of a flag", nil, "", []string{"--mtu=12"}, []string{"mtu", "12", "1280"}},
		{"agent", "values that exclude each other", map[string]string{"enable-ipv4": "false"}, "", nil, []string{"enable-ipv4", "enable-ipv6"}},
		{"operator", "name in the ConfigMap", map[string]string{"cluster-pool-ipv4-cdir": "10.0.0.0/8"}, "", nil, []string{"cluster-pool-ipv4-cdir", "cluster-pool-ipv4-cidr"}},
		{"operator", "value in the ConfigMap", map[string]string{"cluster-pool-ipv4-cidr": "10.0.0.0/33"}, "", nil, []string{"cluster-pool-ipv4-cidr", "10.0.0.0/33"}},
		{"operator", "value of a variable", nil, "STENTOR_IDENTITY_GC_INTERVAL=-5m", nil, []string{"identity-gc-interval", "-5m"}},
		{"operator", "name of a flag", nil, "", []string{"--ipma=x"}, []string{"ipma"}},
		{"operator", "value of a flag", nil, "", []string{"--cluster-pool-ipv4-mask-size=wide"}, []string{"cluster-pool-ipv4-mask-size", "wide"}},
	} {
		t.Run(x.role+" "+x.what, func(t *testing.T) {
			t.Setenv("K8S_NODE_NAME", "n1")
			t.Setenv("K8S_NAMESPACE", "kube-system")
			if name, value, ok := strings.Cut(x.variable, "="); ok {
				t.Setenv(name, value)
			}
			err := run[x.role](x.files, x.args...)
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want one line", err)
			}
			for _, want := range x.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not name %q", err, want)
				}
			}
		})
	}
	t.Run("a variable that Kubernetes sets for a Service is none", func(t *testing.T) {
		t.Setenv("K8S_NODE_NAME", "n1")
		t.Setenv("STENTOR_PORT_80_TCP_ADDR", "10.96.0.7")
		if err := run["agent"](nil); err != nil {
			t.Error(err)
		}
	})
}
