// SPDX-License-Identifier: Apache-2.0

package dns

import "sync/atomic"

// Counters tell what became of messages.
type Counters struct {
	Forwarded   atomic.Uint64 // questions that went to their server
	Denied      atomic.Uint64 // questions that no rule allows
	Passed      atomic.Uint64 // datagrams that nothing limits, unread, of either side
	Answered    atomic.Uint64 // answers that went to their client
	Learned     atomic.Uint64 // of them, learned in time
	LearnLate   atomic.Uint64 // of them, not learned in time
	LearnFailed atomic.Uint64 // of them, not learned
	Unknown     atomic.Uint64 // messages of connections that nobody knows, or that are denied
	Malformed   atomic.Uint64 // of clients: not one question, or not DNS
	Overload    atomic.Uint64 // questions that found no place
	Unreachable atomic.Uint64 // questions whose server could not be reached
	Unanswered  atomic.Uint64 // questions that no answer came for
	NotAsked    atomic.Uint64 // of servers: dropped, no question waits for them
	BadAnswer   atomic.Uint64 // of servers: dropped, not DNS
	Lost        atomic.Uint64 // datagrams that a socket did not take
}

// refused counts a client's message with a fault.
func (c *Counters) refused() { c.Malformed.Add(1) }

// dropped counts a server's message with a fault.
func (c *Counters) dropped(f fault) {
	if f == notAskedFor {
		c.NotAsked.Add(1)
		return
	}
	c.BadAnswer.Add(1)
}
