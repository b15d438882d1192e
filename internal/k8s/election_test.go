// SPDX-License-Identifier: Apache-2.0

package k8s_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

func candidate(name string) k8s.Election {
	return k8s.Election{
		Namespace: "kube-system", Name: "lease", Identity: name,
		LeaseDuration: time.Second, RenewDeadline: 500 * time.Millisecond, RetryPeriod: 50 * time.Millisecond,
	}
}

// campaign runs a candidate in the background; leads receives when it leads.
func campaign(ctx context.Context, c *k8s.Client, name string) (leads chan struct{}, result chan error) {
	leads, result = make(chan struct{}), make(chan error, 1)
	go func() {
		result <- candidate(name).Run(ctx, c, func(ctx context.Context) error {
			close(leads)
			<-ctx.Done()
			return nil
		})
	}()
	return leads, result
}

func TestALeaderThatEndsHandsOverAtOnce(t *testing.T) {
	s := k8stest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	first, firstResult := campaign(ctx, s.Client(), "first")
	<-first
	ctx2, cancel2 := context.WithCancel(t.Context())
	second, secondResult := campaign(ctx2, s.Client(), "second")
	select {
	case <-second:
		t.Fatal("two leaders")
	case <-time.After(1200 * time.Millisecond): // longer than the lease, which the leader renews
	}
	cancel()
	if err := <-firstResult; err != nil {
		t.Errorf("the first ended with %v", err)
	}
	<-second
	cancel2()
	<-secondResult
}

func TestALeaderWithoutTheServerStepsDownBeforeAnotherTakesOver(t *testing.T) {
	s := k8stest.New(t)
	first, firstResult := campaign(t.Context(), s.Client(), "first")
	<-first
	s.Fail(func(_, path string) bool { return strings.Contains(path, "leases") })
	if err := <-firstResult; !errors.Is(err, k8s.ErrLeadershipLost) {
		t.Errorf("want lost leadership, got %v", err)
	}
	s.Fail(nil)
	ctx, cancel := context.WithCancel(t.Context())
	second, secondResult := campaign(ctx, s.Client(), "second")
	<-second
	cancel()
	<-secondResult
}
