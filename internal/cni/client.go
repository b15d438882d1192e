// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/rpc"
)

const retryStep = 100 * time.Millisecond

// errNoAnswer says that the agent took the call and gave no answer in time.
var errNoAnswer = errors.New("the agent gives no answer")

// client calls the agent and understands its refusals.
type client struct {
	socket  string
	timeout time.Duration // for one answer
}

// call sends one request. A refusal of the agent is a *rest.CNIError where it
// gives one.
func (c client) call(method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	err := rpc.Client{Socket: c.socket}.Call(ctx, method, path, in, out)
	var refused *rpc.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		own := &rest.CNIError{}
		if json.Unmarshal(refused.Body, own) == nil && own.Code > 0 && own.Msg != "" {
			return own
		}
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%w within %v", errNoAnswer, c.timeout)
	}
	return err
}

// callPatiently repeats the call while the agent is away, until wait is over.
func (c client) callPatiently(wait time.Duration, method, path string, in, out any) error {
	end := time.Now().Add(wait)
	for {
		err := c.call(method, path, in, out)
		if !away(err) || time.Now().Add(retryStep).After(end) {
			return err
		}
		time.Sleep(retryStep)
	}
}

// away tells that the agent is not there, went away before it answered, or
// cannot serve yet. Anything else is its own word.
func away(err error) bool {
	var own *rest.CNIError
	if errors.As(err, &own) {
		return own.Code == rest.CNITryAgain
	}
	var refused *rpc.Error
	if errors.As(err, &refused) {
		return refused.Status == 503
	}
	return err != nil && !errors.Is(err, errNoAnswer)
}

// cniError gives an error of a call the code that the runtime understands.
func cniError(what string, err error) error {
	var own *rest.CNIError
	var refused *rpc.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return types.NewError(uint(own.Code), own.Msg, own.Details)
	case errors.As(err, &refused) && refused.Status != 503:
		return types.NewError(rest.CNIFailed, what, refused.Error())
	}
	return types.NewError(types.ErrTryAgainLater, "the agent is away: is it running on this node?", err.Error())
}
