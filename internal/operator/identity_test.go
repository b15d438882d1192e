// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/ipam"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

var discard = slog.New(slog.DiscardHandler)

func TestAnIdentityIsMarkedFirstAndGoesLater(t *testing.T) {
	now := time.Unix(10_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	const timeout, duplicate = 30 * time.Minute, time.Minute
	for name, c := range map[string]struct {
		rows []identityRow
		used []uint64
		want string
	}{
		"used":                       {[]identityRow{{Number: 300, Labels: "a"}}, []uint64{300}, "mark[] unmark[] remove[] next 0s"},
		"unused":                     {[]identityRow{{Number: 300, Labels: "a"}}, nil, "mark[300] unmark[] remove[] next 30m0s"},
		"unused for a while":         {[]identityRow{{Number: 300, Labels: "a", Unused: ago(10 * time.Minute)}}, nil, "mark[] unmark[] remove[] next 20m0s"},
		"unused for long":            {[]identityRow{{Number: 300, Labels: "a", Unused: ago(timeout)}}, nil, "mark[] unmark[] remove[300] next 0s"},
		"used again":                 {[]identityRow{{Number: 300, Labels: "a", Unused: ago(timeout)}}, []uint64{300}, "mark[] unmark[300] remove[] next 0s"},
		"a higher number, unused":    {[]identityRow{{Number: 300, Labels: "a"}, {Number: 400, Labels: "a", Unused: ago(duplicate)}}, []uint64{300}, "mark[] unmark[] remove[400] next 0s"},
		"a higher number, used":      {[]identityRow{{Number: 300, Labels: "a", Unused: ago(duplicate)}, {Number: 400, Labels: "a"}}, []uint64{400}, "mark[] unmark[] remove[] next 29m0s"},
		"a higher number, not long":  {[]identityRow{{Number: 300, Labels: "a"}, {Number: 400, Labels: "a"}}, []uint64{300}, "mark[400] unmark[] remove[] next 1m0s"},
		"the same number, no labels": {[]identityRow{{Number: 300}, {Number: 400}}, []uint64{300, 400}, "mark[] unmark[] remove[] next 0s"},
	} {
		v := newView()
		v.identityWriter.Upsert(c.rows...)
		for i, n := range c.used {
			v.endpointWriter.Upsert(endpointRow{Namespace: "ns", Name: fmt.Sprint(i), Identity: n})
		}
		got := judgeIdentities(now, v.identities.Snapshot(), v.endpoints.Snapshot(), timeout, duplicate)
		numbers := func(rows []identityRow) (out []uint64) {
			for _, r := range rows {
				out = append(out, r.Number)
			}
			return out
		}
		text := fmt.Sprintf("mark%v unmark%v remove%v next %v", numbers(got.mark), numbers(got.unmark), numbers(got.remove), got.next)
		if text != c.want {
			t.Errorf("%s: want %s, got %s", name, c.want, text)
		}
	}
}

func TestUnusedIdentitiesLeaveTheCluster(t *testing.T) {
	s := k8stest.New(t)
	for _, n := range []string{"300", "301", "302"} {
		s.Put(identities+"/"+n, fmt.Sprintf(`{"security-labels":{"k8s:app":%q}}`, n))
	}
	s.Put(endpoints+"/a", `{"status":{"identity":{"id":301}}}`)
	start(t, s, Options{PodRanges: ipam.ClusterOptions{}, IdentityGCInterval: time.Millisecond, IdentityTimeout: time.Nanosecond, EndpointGCInterval: -1})
	s.Wait("one is left", func() bool { return fmt.Sprint(s.Names(identities)) == "[301]" })
}

func TestAnIdentityThatAnAgentTookIsNotRemoved(t *testing.T) {
	s := k8stest.New(t)
	c := s.Client()
	s.Put(identities+"/300", fmt.Sprintf(`{"metadata":{"annotations":{%q:"2020-01-01T00:00:00Z"}},"security-labels":{"k8s:app":"a"}}`, k8s.AnnotationUnused))
	o, err := k8s.CiliumIdentities.Get(t.Context(), c, "", "300")
	if err != nil {
		t.Fatal(err)
	}
	judged, ok := identityFrom(o)
	if !ok || judged.Unused.IsZero() {
		t.Fatalf("the mark was not read: %+v", judged)
	}
	if err := c.KeepIdentity(t.Context(), 300); err != nil {
		t.Fatal(err)
	}
	op := &operator{Options: Options{Log: discard}, client: c}
	op.carryOut(t.Context(), verdicts{remove: []identityRow{judged}})
	kept := s.Object(identities + "/300")
	if kept == nil {
		t.Fatal("the identity is gone")
	}
	if strings.Contains(fmt.Sprint(kept["metadata"]), k8s.AnnotationUnused) {
		t.Error("the mark is still there")
	}
	if err := c.KeepIdentity(t.Context(), 301); err == nil {
		t.Error("a number that does not exist was kept")
	}
}
