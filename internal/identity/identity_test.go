// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"math/rand/v2"
	"testing"

	"github.com/stentor-net/stentor/internal/label"
)

func set(labels ...string) label.Set { return label.ParseSet(labels) }

func TestALabelSetKeepsItsLowestNumber(t *testing.T) {
	existing := map[ID]label.Set{700: set("k8s:app=a"), 300: set("k8s:app=a"), 256: set("k8s:app=b")}
	id, exists, ok := Pick(existing, set("k8s:app=a"), rand.New(rand.NewPCG(1, 1)))
	if id != 300 || !exists || !ok {
		t.Errorf("got %d, exists %t, ok %t; want the existing 300", id, exists, ok)
	}
}

func TestANewLabelSetGetsAFreeNumberOfTheCluster(t *testing.T) {
	existing := Reserved()
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		id, exists, ok := Pick(existing, set("k8s:n="+ID(len(existing)).String()), r)
		if exists || !ok || id < MinAllocated || id > MaxAllocated || existing[id] != nil {
			t.Fatalf("got %d, exists %t, ok %t", id, exists, ok)
		}
		existing[id] = set("k8s:n=" + ID(len(existing)).String())
	}
}

func TestPickSaysWhenNoNumberIsFree(t *testing.T) {
	existing := map[ID]label.Set{}
	for id := MinAllocated; id <= MaxAllocated; id++ {
		existing[id] = nil
	}
	r := rand.New(rand.NewPCG(1, 3))
	if id, _, ok := Pick(existing, set("k8s:app=a"), r); ok {
		t.Errorf("got %d although all numbers are taken", id)
	}
	delete(existing, 4711)
	if id, _, ok := Pick(existing, set("k8s:app=a"), r); !ok || id != 4711 {
		t.Errorf("got %d, %t; want the only free number 4711", id, ok)
	}
}

func TestOnlyReservedAndClusterNumbersCrossTheWire(t *testing.T) {
	for id, want := range map[ID]bool{Unknown: false, Host: true, 255: true, 256: true, 65535: true, 0x00030100: true, LocalCIDR: false, LocalNode: false} {
		if got := id.Crosses(); got != want {
			t.Errorf("identity %d: got %t, want %t", id, got, want)
		}
	}
}
