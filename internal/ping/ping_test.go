// SPDX-License-Identifier: Apache-2.0

package ping

import (
	"net/netip"
	"os"
	"testing"
)

func TestEchoIsAnswered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("raw sockets are for root")
	}
	for _, a := range []string{"127.0.0.1", "::1"} {
		for _, size := range []int{0, 56, 3000} {
			if err := Echo(t.Context(), netip.MustParseAddr(a), size); err != nil {
				t.Errorf("%s with %d bytes: %v", a, size, err)
			}
		}
	}
}
