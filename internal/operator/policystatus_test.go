// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/report"
)

// statusLab has policies and reports in tables, and notes what is written.
type statusLab struct {
	*policyWriter
	t       *testing.T
	objects map[string]policy.Object
	now     time.Time
	written map[string]string // by key: both conditions
	writes  int
	events  []string
	fail    error
}

func newStatusLab(t *testing.T, nodes ...string) *statusLab {
	l := &statusLab{t: t, objects: map[string]policy.Object{}, now: time.Unix(1000, 0), written: map[string]string{}}
	l.policyWriter = &policyWriter{
		log: slog.New(slog.DiscardHandler), view: newView(), enforced: newEnforcement(), told: map[string]*told{},
		pace: pace{settle: 3 * time.Second, refresh: 20 * time.Second},
		store: func(_ context.Context, o policy.Object, c ...ciliumv2.PolicyCondition) error {
			if l.fail != nil {
				return l.fail
			}
			l.writes++
			l.written[o.Key()] = fmt.Sprintf("%s %s %q; %s %s %q", c[0].Type, c[0].Status, c[0].Message, c[1].Type, c[1].Status, c[1].Message)
			return nil
		},
		warn: func(_ context.Context, o policy.Object, reason, message string) error {
			l.events = append(l.events, o.Key()+" "+reason+" "+message)
			return nil
		},
	}
	l.join(nodes...)
	return l
}

func (l *statusLab) join(nodes ...string) {
	for _, n := range nodes {
		l.view.nodeWriter.Upsert(nodeRow{Name: n})
	}
}

func (l *statusLab) put(name string, generation int64) {
	o := policy.Object{Kind: policy.KindCiliumNetworkPolicy, Namespace: "a", Name: name, UID: "u-" + name, Generation: generation}
	l.objects[o.Key()] = o
	l.view.policyWriter.Upsert(o)
}

// report lets a node have in force what is stored now; bad are the names that it quarantines.
func (l *statusLab) report(node string, bad ...string) {
	var list []policy.ObjectStatus
	for key, o := range l.objects {
		s := policy.ObjectStatus{Key: key, UID: o.UID, Generation: o.Generation, Valid: true}
		for _, b := range bad {
			if o.Name == b {
				s.Valid, s.Reason = false, "quarantined: no such thing"
			}
		}
		list = append(list, s)
	}
	l.view.reportWriter.Upsert(k8s.NodeReport{Node: node, Report: report.Of(1, list)})
}

// expect steps after some time and compares what stands in the object's status.
func (l *statusLab) expect(what string, after time.Duration, name, want string) {
	l.t.Helper()
	l.now = l.now.Add(after)
	l.step(l.t.Context(), l.now)
	if got := l.written["CiliumNetworkPolicy/a/"+name]; got != want {
		l.t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

const (
	bothNodes = `Valid True ""; Enforced True "in force on 2 of 2 nodes"`
	oneNode   = `Valid True ""; Enforced False "in force on 1 of 2 nodes, not on node2"`
)

func TestAStatusIsWrittenOnceAllNodesHaveThePolicyInForce(t *testing.T) {
	l := newStatusLab(t, "node1", "node2")
	l.put("p", 1)
	l.expect("nobody yet", 0, "p", "")
	l.report("node1")
	l.expect("one of two, at once", 0, "p", "")
	l.report("node2")
	l.expect("both", 0, "p", bothNodes)
	for range 3 {
		l.expect("nothing changed", time.Minute, "p", bothNodes)
	}
	if l.writes != 1 {
		t.Errorf("%d writes for one policy, want 1", l.writes)
	}
}

func TestANodeWhoseAgentIsAwayIsNamed(t *testing.T) {
	l := newStatusLab(t, "node1", "node2")
	l.put("p", 1)
	l.report("node1")
	l.report("node2")
	l.expect("both", 0, "p", bothNodes)
	l.put("p", 2) // node2 is away
	l.report("node1")
	l.expect("within the time to settle", time.Second, "p", bothNodes)
	l.expect("after it", 3*time.Second, "p", oneNode)
	l.put("q", 1)
	l.report("node1")
	l.expect("another policy does not disturb", 4*time.Second, "p", oneNode)
	l.report("node2")
	l.expect("the agent is back", 0, "p", bothNodes)
	l.expect("and has the other one, too", 0, "q", bothNodes)
}

// A report that is no view of the operator's says nothing new: what the node
// had before and has not changed is still in force there.
func TestAnUnknownDigestCountsWithWhatTheNodeHadBefore(t *testing.T) {
	l := newStatusLab(t, "node1", "node2")
	l.put("p", 1)
	l.report("node1")
	l.report("node2")
	l.expect("both", 0, "p", bothNodes)
	l.put("q", 1)
	l.step(t.Context(), l.now)
	l.view.reportWriter.Upsert(k8s.NodeReport{Node: "node2", Report: report.Report{Kinds: map[policy.Kind]report.Digest{policy.KindCiliumNetworkPolicy: {Count: 9, Sum: 9}}}})
	l.report("node1")
	l.expect("p is as it was", time.Minute, "p", bothNodes)
	l.expect("q is not known to be there", 0, "q", oneNode)
}

func TestNodesThatComeAndGoChangeTheNumber(t *testing.T) {
	l := newStatusLab(t, "node1", "node2")
	l.put("p", 1)
	l.report("node1")
	l.report("node2")
	l.expect("two", 0, "p", bothNodes)
	l.view.nodeWriter.Delete("node2")
	l.expect("not at once: only the number changed", time.Second, "p", bothNodes)
	l.expect("one", 20*time.Second, "p", `Valid True ""; Enforced True "in force on 1 of 1 nodes"`)
	l.join("node3")
	l.expect("a node without an agent", 20*time.Second, "p", `Valid True ""; Enforced False "in force on 1 of 2 nodes, not on node3"`)
	l.report("node3")
	l.expect("its agent came", 0, "p", bothNodes)
}

func TestAQuarantinedPolicyIsToldAtOnceAndOnce(t *testing.T) {
	l := newStatusLab(t, "node1", "node2")
	l.put("good", 1)
	l.put("bad", 1)
	l.report("node1", "bad")
	l.expect("one node says so", 0, "bad", `Valid False "quarantined: no such thing"; Enforced False "set aside on 1 of 2 nodes"`)
	l.report("node2", "bad")
	l.expect("both say so", 20*time.Second, "bad", `Valid False "quarantined: no such thing"; Enforced False "set aside on 2 of 2 nodes"`)
	l.expect("the other is in force", 0, "good", bothNodes)
	if len(l.events) != 1 || !strings.Contains(l.events[0], "a/bad PolicyQuarantined quarantined: no such thing") {
		t.Errorf("events %q", l.events)
	}
	l.put("bad", 2)
	l.report("node1")
	l.report("node2")
	l.expect("repaired", 0, "bad", bothNodes)
}

func TestNodesThatDifferAreNamed(t *testing.T) {
	l := newStatusLab(t, "node1", "node2")
	l.put("p", 1)
	l.report("node1", "p")
	l.report("node2")
	l.expect("they differ", 0, "p", `Valid False "node1: quarantined: no such thing"; Enforced False "set aside on 1 of 2 nodes"`)
}

func TestWithoutAnyReportThePolicyIsUnknown(t *testing.T) {
	l := newStatusLab(t, "node1")
	l.put("p", 1)
	l.expect("at once", 0, "p", "")
	l.expect("after the time to settle", 3*time.Second, "p", `Valid Unknown "no node has judged this policy yet"; Enforced False "in force on 0 of 1 nodes, not on node1"`)
}

func TestMoreNotesThanAReportHoldsAreNotTakenForGood(t *testing.T) {
	l := newStatusLab(t, "node1")
	var bad []string
	for i := range report.MaxNotes + 5 {
		name := fmt.Sprintf("p%02d", i)
		l.put(name, 1)
		bad = append(bad, name)
	}
	l.report("node1", bad...)
	l.expect("beyond the limit", 5*time.Second, bad[len(bad)-1],
		`Valid Unknown "nodes have more to say about policies than a report holds: see stentor policy get"; Enforced True "in force on 1 of 1 nodes"`)
}

func TestARefusedStatusIsWrittenLater(t *testing.T) {
	l := newStatusLab(t, "node1", "node2")
	l.put("p", 1)
	l.report("node1")
	l.report("node2")
	l.fail = errors.New("the API server is away")
	if wait := l.step(t.Context(), l.now); wait != policyStatusRetry {
		t.Errorf("looks again after %v", wait)
	}
	l.fail = nil
	l.expect("again", policyStatusRetry, "p", bothNodes)
}

// Through the API: Leases in, conditions and an Event out; a new leader writes
// nothing that stands there already.
func TestTheLeaderWritesStatusesFromLeases(t *testing.T) {
	s := k8stest.New(t)
	const path = "apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies/p"
	s.Put(nodes+"/node1", `{"spec":{"addresses":[]}}`)
	s.Put(path, `{"metadata":{"generation":1},"spec":{"endpointSelector":{},"ingress":[{}]}}`)
	uid := field(s.Object(path), "metadata", "uid")
	c := s.Client()
	stop := start(t, s, Options{IPAM: IPAMKubernetes, SkipDefinitions: true})
	tell := func(valid bool, reason string) {
		t.Helper()
		r := report.Of(1, []policy.ObjectStatus{{Key: "CiliumNetworkPolicy/default/p", UID: uid, Generation: 1, Valid: valid, Reason: reason}})
		if err := c.PublishReport(t.Context(), "node1", r); err != nil {
			t.Fatal(err)
		}
	}
	tell(true, "")
	s.Wait("the policy is in force", func() bool {
		return strings.Contains(field(s.Object(path), "status"), "in force on 1 of 1 nodes")
	})
	stop()
	before := field(s.Object(path), "metadata", "resourceVersion")
	stop = start(t, s, Options{IPAM: IPAMKubernetes, SkipDefinitions: true, Identity: "two"})
	tell(false, "quarantined: no such thing")
	s.Wait("the policy is set aside", func() bool {
		return strings.Contains(field(s.Object(path), "status"), "no such thing")
	})
	stop()
	if after := field(s.Object(path), "metadata", "resourceVersion"); after == before {
		t.Error("nothing was written")
	}
}
