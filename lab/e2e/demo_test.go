// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/stentor-net/stentor/lab/internal/demo"
	"github.com/stentor-net/stentor/lab/internal/probe"
)

// demo: the demo's verdicts are right, and it says so itself.
func (s *setup) demo() {
	start := time.Now()
	out, code := s.run(append([]string{"demo"}, s.upArg...)...)
	s.t.Logf("demo in %.1f s\n%s", time.Since(start).Seconds(), out)
	if code != 0 {
		s.t.Errorf("stentor-lab demo: exit code %d", code)
	}
}

// restore: without the policy everybody lands again.
func (s *setup) restore() {
	s.needsAgent()
	s.apply(demo.Empire + "---\n" + demo.Rule1) // the story may run alone
	s.running("default", "xwing", "xwing-2", "tiefighter")
	s.eventually("default/xwing", 5*time.Second, probe.Timeout, "http://"+netip.AddrPortFrom(s.vips("default", "deathstar")[0], 80).String())
	if err := s.kube.Delete(context.Background(), demo.Rule1); err != nil {
		s.t.Fatal(err)
	}
	for _, ship := range []from{"default/xwing", "default/xwing-2", "default/tiefighter"} {
		for _, ip := range s.vips("default", "deathstar") {
			s.eventually(ship, 5*time.Second, probe.OK,
				fmt.Sprintf("http://%s/v1/request-landing#method=POST", netip.AddrPortFrom(ip, 80)))
		}
	}
}

// eventuallyTimeout is for one probe of eventually.
const eventuallyTimeout = 300 * time.Millisecond

// eventually fails the story if a target's outcome does not become what is
// wanted; it returns how long that took.
func (s *setup) eventually(at from, limit time.Duration, want, target string) time.Duration {
	s.t.Helper()
	start := time.Now()
	var last probe.Result
	took := limit
	s.wait(limit, fmt.Sprintf("%s from %s to %s", want, at, target), func(ctx context.Context) (bool, error) {
		began := time.Since(start)
		r, err := s.probe(context.WithoutCancel(ctx), at, eventuallyTimeout, target)
		if err != nil {
			return false, err
		}
		if last = r[0]; last.Outcome != want {
			return false, fmt.Errorf("outcome %s %s", last.Outcome, last.Error)
		}
		took = began
		return true, nil
	})
	return took
}
