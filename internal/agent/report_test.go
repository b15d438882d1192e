// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/policy"
)

func TestStatusNamesPoliciesThatAreNotValid(t *testing.T) {
	tables, _, own := newTables()
	f := &enforcer{checks: newChecks(own.checks)}
	out := policy.Outcome{Objects: []policy.ObjectStatus{{Key: "CiliumNetworkPolicy/a/good", Valid: true}}}
	for _, name := range []string{"w", "x", "y", "z"} {
		out.Objects = append(out.Objects, policy.ObjectStatus{Key: "CiliumNetworkPolicy/a/" + name})
	}
	f.report(out)
	c, _ := tables.checks.Get("policy")
	want := "what invalid policies ask for: CiliumNetworkPolicy/a/w, CiliumNetworkPolicy/a/x, CiliumNetworkPolicy/a/y and 1 more"
	if c.State != rest.StateWarning || c.Missing != want || !strings.Contains(c.Why, "quarantined") {
		t.Errorf("got %+v, want a warning that %s", c, want)
	}
	f.report(policy.Outcome{Objects: out.Objects[:1]})
	if c, _ := tables.checks.Get("policy"); c.State != rest.StateOk || c.Missing != "" {
		t.Errorf("without invalid policies: %+v", c)
	}
}
