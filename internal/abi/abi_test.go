// SPDX-License-Identifier: Apache-2.0

package abi

import "testing"

func TestReasonsHaveTextsOrTheirNumber(t *testing.T) {
	for reason, want := range map[uint8]string{ReasonPolicyDenied: "Policy denied", ReasonIdentityUnknown: "Identity not known yet", 255: "255"} {
		if got := ReasonText(reason); got != want {
			t.Errorf("%d: %q, want %q", reason, got, want)
		}
	}
	if len(Reasons) != len(ReasonNames) {
		t.Errorf("%d texts, %d names", len(Reasons), len(ReasonNames))
	}
}

func TestShardsStayWithinTheirTable(t *testing.T) {
	seen := map[uint32]bool{}
	for i := range 10000 {
		a := Addr{B: [16]byte{10: 0xff, 11: 0xff, 12: 10, 14: byte(i >> 8), 15: byte(i)}}
		shard := PeerShard(a)
		if shard >= GenerationsMax {
			t.Fatalf("shard %d of %d", shard, GenerationsMax)
		}
		seen[shard] = true
	}
	if len(seen) < 2000 {
		t.Errorf("10000 neighbouring addresses share %d shards", len(seen))
	}
}
