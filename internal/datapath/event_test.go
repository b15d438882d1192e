// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stentor-net/stentor/internal/abi"
)

func TestAnICMPEventHasItsTypeAndCodeAsPorts(t *testing.T) {
	raw := abi.Event{Type: abi.EventDrop, Reason: abi.ReasonPolicyDenied, Protocol: protoICMPv6, SourcePort: 0x0003 /* network order: type 3, code 0 */}
	e := decode(&raw)
	if e.Source.Port() != 3 || e.Destination.Port() != 0 {
		t.Errorf("type %d code %d, want 3 and 0", e.Source.Port(), e.Destination.Port())
	}
	raw = abi.Event{Protocol: 17, SourcePort: 0x3500, DestinationPort: 0x5000}
	if e = decode(&raw); e.Source.Port() != 53 || e.Destination.Port() != 80 {
		t.Errorf("ports %d and %d, want 53 and 80", e.Source.Port(), e.Destination.Port())
	}
}
