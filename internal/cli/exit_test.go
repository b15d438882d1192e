// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"

	"github.com/stentor-net/stentor/internal/cli/command"
)

func TestExitCodesTellUseFromFailure(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "")
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, command.ExitOK},
		{[]string{"--help"}, command.ExitOK},
		{[]string{"--socket", "/none/s", "endpoint", "list"}, command.ExitError},
		{[]string{"--socket", "/none/s", "status"}, command.ExitError},
		{[]string{"--kubeconfig", "/none/k", "status"}, command.ExitError},
		{[]string{"endpont"}, command.ExitUsage},
		{[]string{"endpoint"}, command.ExitUsage},
		{[]string{"endpoint", "list", "--frob"}, command.ExitUsage},
		{[]string{"endpoint", "list", "-o", "xml"}, command.ExitUsage},
		{[]string{"endpoint", "list", "extra"}, command.ExitUsage},
		{[]string{"ip", "list", "a", "b"}, command.ExitUsage},
		{[]string{"--socket", "/s", "--node", "n", "status"}, command.ExitUsage},
	} {
		root := newRoot()
		root.SetArgs(c.args)
		if got := command.ExitCode(root.ExecuteContext(t.Context())); got != c.want {
			t.Errorf("stentor %v: exit %d, want %d", c.args, got, c.want)
		}
	}
}
