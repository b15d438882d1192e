// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/table"
)

// checks keeps what each part of the agent says about itself: the table `checks`.
type checks struct {
	writer *table.Writer[rest.Check]
	now    func() time.Time
}

func newChecks(w *table.Writer[rest.Check], parts ...string) *checks {
	c := &checks{writer: w, now: time.Now}
	for _, name := range parts {
		c.set(rest.Check{Name: name, State: rest.StateWarning, Msg: "starting"})
	}
	return c
}

func (c *checks) set(want rest.Check) {
	c.writer.Update(func(tx *table.Tx[rest.Check]) {
		old, ok := tx.Get(want.Name)
		want.Since = old.Since
		if !ok || old.State != want.State {
			want.Since = c.now().UTC().Format(time.RFC3339)
		}
		if want != old {
			tx.Upsert(want)
		}
	})
}

// ok says that a part works.
func (c *checks) ok(name, msg string) {
	c.set(rest.Check{Name: name, State: rest.StateOk, Msg: msg})
}

// warn says that a part works in part: msg what happened, missing what does
// not work for whom, why the reason or what is done about it.
func (c *checks) warn(name, msg, missing, why string) {
	c.set(rest.Check{Name: name, State: rest.StateWarning, Msg: msg, Missing: missing, Why: why})
}

// fail says that a part does not work.
func (c *checks) fail(name, msg, missing, why string) {
	c.set(rest.Check{Name: name, State: rest.StateFailure, Msg: msg, Missing: missing, Why: why})
}

// disabled says that a part is switched off.
func (c *checks) disabled(name, msg string) {
	c.set(rest.Check{Name: name, State: rest.StateDisabled, Msg: msg})
}
