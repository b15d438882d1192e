// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/policy"
)

func statuses(n int) []policy.ObjectStatus {
	var out []policy.ObjectStatus
	for i := range n {
		out = append(out, policy.ObjectStatus{Key: fmt.Sprintf("CiliumNetworkPolicy/default/p%03d", i), UID: fmt.Sprint(i), Generation: 1, Valid: true})
	}
	return out
}

func TestADigestIsAboutTheSetAndNotItsOrder(t *testing.T) {
	a := Of(1, statuses(5))
	list := statuses(5)
	slices.Reverse(list)
	if b := Of(2, list); a.Kinds["CiliumNetworkPolicy"] != b.Kinds["CiliumNetworkPolicy"] {
		t.Errorf("%+v and %+v differ", a, b)
	}
	for what, change := range map[string]func([]policy.ObjectStatus) []policy.ObjectStatus{
		"generation": func(l []policy.ObjectStatus) []policy.ObjectStatus { l[2].Generation++; return l },
		"uid":        func(l []policy.ObjectStatus) []policy.ObjectStatus { l[2].UID = "x"; return l },
		"less":       func(l []policy.ObjectStatus) []policy.ObjectStatus { return l[1:] },
	} {
		if b := Of(1, change(statuses(5))); a.Kinds["CiliumNetworkPolicy"] == b.Kinds["CiliumNetworkPolicy"] {
			t.Errorf("%s: the digest is the same", what)
		}
	}
}

func TestAReportStaysSmall(t *testing.T) {
	list := statuses(5000)
	for i := range list {
		list[i].Valid, list[i].Reason = i%2 == 0, strings.Repeat("ä", 1000)
	}
	r := Of(7, list)
	if text := r.Encode(); len(text) > 16<<10 {
		t.Errorf("%d bytes", len(text))
	}
	if len(r.Notes) != MaxNotes || r.More != 5000-MaxNotes || r.Notes[0].Valid {
		t.Errorf("%d notes, %d more, first %+v", len(r.Notes), r.More, r.Notes[0])
	}
	back, err := Decode(r.Encode())
	if err != nil || back.Encode() != r.Encode() {
		t.Errorf("read back as %+v (%v)", back, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Of(1, statuses(3)).Encode())
	f.Add("{")
	f.Fuzz(func(t *testing.T, text string) {
		if r, err := Decode(text); err == nil {
			if again, err := Decode(r.Encode()); err != nil || again.Encode() != r.Encode() {
				t.Errorf("%q: %+v, %v", text, again, err)
			}
		}
	})
}
