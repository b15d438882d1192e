// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Election makes one of several candidates the leader, by a Lease.
//
// A candidate takes over when it has seen the Lease unchanged for its whole
// duration by its own clock, so the clocks need not agree. A leader that could
// not renew for RenewDeadline steps down by itself, which is before anybody
// else takes over.
type Election struct {
	// Namespace and Name of the Lease. Required.
	Namespace, Name string
	// Identity of the candidate, different from all others. Required.
	Identity string
	// LeaseDuration is how long a silent leader stays one for others.
	// Optional: 15 s.
	LeaseDuration time.Duration
	// RenewDeadline is how long a leader goes on without renewal. Optional: 10 s.
	RenewDeadline time.Duration
	// RetryPeriod is the time between attempts. Optional: 2 s.
	RetryPeriod time.Duration
	// Log is told about changes. Optional.
	Log *slog.Logger
}

// ErrLeadershipLost says that another candidate may be the leader by now.
var ErrLeadershipLost = errors.New("leadership lost")

func (e *Election) complete() error {
	if e.Namespace == "" || e.Name == "" || e.Identity == "" {
		return errors.New("election: namespace, name and identity are required")
	}
	if e.LeaseDuration == 0 {
		e.LeaseDuration = 15 * time.Second
	}
	if e.RenewDeadline == 0 {
		e.RenewDeadline = 10 * time.Second
	}
	if e.RetryPeriod == 0 {
		e.RetryPeriod = 2 * time.Second
	}
	if e.RetryPeriod >= e.RenewDeadline || e.RenewDeadline >= e.LeaseDuration {
		return fmt.Errorf("election: want retry %v < renew deadline %v < lease %v", e.RetryPeriod, e.RenewDeadline, e.LeaseDuration)
	}
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Run waits until the candidate is the leader, then runs lead with a context
// that ends when it no longer is. It returns what lead returns, or
// ErrLeadershipLost. The Lease is released when lead has ended by itself or
// ctx has.
func (e Election) Run(ctx context.Context, c *Client, lead func(context.Context) error) error {
	if err := e.complete(); err != nil {
		return err
	}
	v := &view{Election: e, client: c}
	for !v.attempt(ctx, e.RenewDeadline/2) {
		if err := pause(ctx, e.RetryPeriod); err != nil {
			return err
		}
	}
	e.Log.Info("became the leader", "lease", e.Namespace+"/"+e.Name)
	leading, stop := context.WithCancelCause(ctx)
	done := make(chan error, 1)
	go func() { done <- lead(leading) }()
	for renewed := time.Now(); ; {
		timer := time.NewTimer(e.RetryPeriod)
		select {
		case err := <-done:
			timer.Stop()
			stop(err)
			v.release(context.WithoutCancel(ctx))
			return err
		case <-timer.C:
		}
		// A slow server gets time, but never beyond the deadline.
		started := time.Now()
		if v.attempt(leading, min(e.RenewDeadline/2, max(e.RetryPeriod, e.RenewDeadline-time.Since(renewed)))) {
			renewed = started
		}
		if ctx.Err() == nil && (v.lost || time.Since(renewed) >= e.RenewDeadline) {
			stop(ErrLeadershipLost)
			e.Log.Warn("leadership lost", "lease", e.Namespace+"/"+e.Name)
			<-done
			return ErrLeadershipLost
		}
	}
}

// view is what one candidate has seen of the Lease.
type view struct {
	Election
	client  *Client
	version string    // resource version seen last
	seen    time.Time // since when
	lost    bool      // somebody else has the Lease
	told    string    // why it was not taken, as the log has it
}

// attempt is try with a limit.
func (v *view) attempt(ctx context.Context, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return v.try(ctx)
}

// try takes or renews the Lease, and says whether the candidate has it.
func (v *view) try(ctx context.Context) bool {
	lease, err := Leases.Get(ctx, v.client, v.Namespace, v.Name)
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: v.Namespace, Name: v.Name}}
		v.claim(lease)
		_, err = Leases.Create(ctx, v.client, lease)
		return v.outcome(err)
	}
	if err != nil {
		return v.outcome(err)
	}
	if lease.ResourceVersion != v.version {
		v.version, v.seen = lease.ResourceVersion, time.Now()
	}
	holder := value(lease.Spec.HolderIdentity, "")
	held := time.Duration(value(lease.Spec.LeaseDurationSeconds, 0)) * time.Second
	if holder != "" && holder != v.Identity && time.Since(v.seen) < held {
		v.lost = true
		return false
	}
	v.claim(lease)
	_, err = Leases.Update(ctx, v.client, lease)
	return v.outcome(err)
}

func (v *view) outcome(err error) bool {
	v.lost = false
	switch {
	case err == nil:
		v.told = ""
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), errors.Is(err, context.Canceled):
	case err.Error() != v.told: // once, not at every attempt
		v.told = err.Error()
		v.Log.Warn("lease not taken: without it nothing is done; tried again", "lease", v.Namespace+"/"+v.Name, "error", err)
	}
	return err == nil
}

// claim writes the candidate into the Lease.
func (v *view) claim(lease *coordinationv1.Lease) {
	now := metav1.NowMicro()
	seconds := int32(v.LeaseDuration / time.Second)
	if value(lease.Spec.HolderIdentity, "") != v.Identity {
		transitions := value(lease.Spec.LeaseTransitions, 0) + 1
		lease.Spec.LeaseTransitions, lease.Spec.AcquireTime = &transitions, &now
	}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &v.Identity, &seconds, &now
}

// release empties the Lease, so that the next leader need not wait.
func (v *view) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, v.RetryPeriod)
	defer cancel()
	lease, err := Leases.Get(ctx, v.client, v.Namespace, v.Name)
	if err != nil || value(lease.Spec.HolderIdentity, "") != v.Identity {
		return
	}
	none, second := "", int32(1)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &none, &second
	if _, err := Leases.Update(ctx, v.client, lease); err != nil {
		v.Log.Debug("lease not released", "lease", v.Namespace+"/"+v.Name, "error", err)
	}
}

// pause waits for a time or the end of the context.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
