// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/testkit/corpus"
)

// tally counts what a corpus test saw.
type tally struct {
	t                                      *testing.T
	cases, verdicts, wrong, deviations     int
	unlike                                 int // an explanation differs from the cells
	denied, byRule, byDefault, unexplained int
}

func (s *tally) String() string {
	return fmt.Sprintf("cases %d, verdicts %d, differences %d, named deviations %d; explanations unlike the cells %d; denied %d: by a rule %d, by default %d, without a name %d",
		s.cases, s.verdicts, s.wrong, s.deviations, s.unlike, s.denied, s.byRule, s.byDefault, s.unexplained)
}

const shown = 20 // differences

func (s *tally) errorf(format string, args ...any) {
	if s.wrong+s.unlike+s.unexplained <= shown {
		s.t.Errorf(format, args...)
	}
}

// judge asks the cells and the explainer about one direction.
func (s *tally) judge(c *corpus.Case, kernel *policy.State, x *policy.Explainer, own, peer corpus.End, q policy.Question, want byte) policy.Verdict {
	q.Endpoint, q.Peer = own.Endpoint, peer.Addr
	var got policy.Decision
	if peer.Addr.IsValid() {
		got = kernel.Decide(q.Endpoint, q.Direction, q.Peer, q.Protocol, q.Port)
	} else {
		q.Identity = peer.Identity
		got = kernel.DecidePeer(q.Endpoint, q.Direction, kernel.IdentityPeer[peer.Identity], q.Protocol, q.Port)
	}
	what := fmt.Sprintf("%s: direction %d of %s with %s, protocol %d port %d", c.Name, q.Direction, own.Name, peer.Name, q.Protocol, q.Port)
	if want != 0 {
		s.verdicts++
		switch letter := corpus.Letter(got.Verdict); {
		case letter == want:
		case corpus.Deviates(c.Name) && letter == corpus.Allowed:
			s.deviations++
		default:
			s.wrong++
			s.errorf("%s: want %c, got %c (%v)", what, want, letter, got)
		}
	}
	a, err := x.Explain(q)
	if err != nil || a.Verdict != got.Verdict {
		s.unlike++
		s.errorf("%s: the cells say %v, the explanation %+v (%v)", what, got, a, err)
	}
	if a.Verdict == policy.Deny {
		s.denied++
		switch {
		case len(a.Deciding) > 0:
			s.byRule++
		case len(a.Default) > 0:
			s.byDefault++
		default:
			s.unexplained++
			s.errorf("%s: a denial without a rule or a policy: %+v", what, a)
		}
	}
	return got.Verdict
}

// run judges all situations of a case, one after the other.
func (s *tally) run(c corpus.Case) {
	s.cases++
	e, err := policy.New(c.Options, policy.NewState())
	if err != nil {
		s.t.Fatal(err)
	}
	kernel := policy.NewState()
	for i := range c.Situations {
		now := &c.Situations[i]
		out := e.Update(now.Input)
		if out.Err != nil {
			s.t.Errorf("%s: %v", c.Name, out.Err)
		}
		for _, op := range out.Ops {
			kernel.Apply(op)
		}
		for _, k := range now.Connections {
			from, to := now.Ends[k.From], now.Ends[k.To]
			q := policy.Question{Protocol: k.Protocol, Port: k.Port}
			both := policy.Allow
			if from.Endpoint != 0 && (k.Egress != 0 || k.Combined != 0) {
				both = min(both, s.judge(&c, &kernel, out.Explainer, from, to, q, k.Egress))
			}
			if q.Direction = policy.Ingress; to.Endpoint != 0 && (k.Ingress != 0 || k.Combined != 0) {
				both = min(both, s.judge(&c, &kernel, out.Explainer, to, from, q, k.Ingress))
			}
			if k.Combined != 0 {
				if s.verdicts++; corpus.Letter(both) != k.Combined {
					s.wrong++
					s.errorf("%s: %s to %s, protocol %d port %d: want %c, got %c", c.Name, from.Name, to.Name, k.Protocol, k.Port, k.Combined, corpus.Letter(both))
				}
			}
		}
	}
}

// testCorpus holds the cells, and the explanations, against a part of the corpus.
func testCorpus(t *testing.T, part string, read func(file string, family int) (corpus.Case, error)) {
	files, err := corpus.Files(part)
	if errors.Is(err, corpus.ErrNone) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range []int{4, 6} {
		s := &tally{t: t}
		for _, file := range files {
			c, err := read(file, family)
			if err != nil {
				t.Fatal(err)
			}
			s.run(c)
		}
		t.Logf("%s, IPv%d: %v", part, family, s)
		if s.wrong+s.unlike+s.unexplained > 0 {
			t.Errorf("%s, IPv%d: %d differences, %d explanations unlike the cells, %d denials without a name", part, family, s.wrong, s.unlike, s.unexplained)
		}
		if s.denied == 0 || s.denied != s.byRule+s.byDefault {
			t.Errorf("%s, IPv%d: %d denials, of which %d are attributed", part, family, s.denied, s.byRule+s.byDefault)
		}
	}
}

func TestNetworkPoliciesGetTheVerdictsOfTheCorpusStepByStep(t *testing.T) {
	testCorpus(t, "cyclonus/cases", corpus.Cyclonus)
}

func TestRandomPoliciesGetTheVerdictsOfTheCorpus(t *testing.T) {
	testCorpus(t, "random", corpus.Matrix)
}

func TestPublishedPoliciesGetTheVerdictsOfTheCorpus(t *testing.T) {
	testCorpus(t, "real", corpus.Matrix)
}
