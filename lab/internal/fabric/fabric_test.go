// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/stentor-net/stentor/lab/internal/plan"
)

func testPlan(t *testing.T) *plan.Plan {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	p, err := plan.New(plan.Options{Name: fmt.Sprintf("f%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(p); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestNodesAndOutsideReachTheAPIServersAddress(t *testing.T) {
	p := testPlan(t)
	if err := Up(p); err != nil {
		t.Fatal(err)
	}
	var listeners []net.Listener
	if err := In(p.FabricNS, func() error {
		for _, a := range p.Fabric {
			l, err := net.Listen("tcp", net.JoinHostPort(a.Addr().String(), "6443"))
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, l := range listeners {
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	}
	for _, ns := range []string{p.Nodes[0].NetNS, p.Nodes[1].NetNS, p.OutsideNS} {
		for _, l := range listeners {
			if err := In(ns, func() error {
				c, err := net.Dial("tcp", l.Addr().String())
				if err == nil {
					c.Close()
				}
				return err
			}); err != nil {
				t.Errorf("from %s: %v", ns, err)
			}
		}
	}
}

func TestTheFabricKnowsNothingOfPods(t *testing.T) {
	p := testPlan(t)
	if err := Up(p); err != nil {
		t.Fatal(err)
	}
	if err := In(p.FabricNS, func() error {
		_, err := net.Dial("udp", "10.244.0.5:53")
		if err == nil {
			return fmt.Errorf("there is a route to a pod's address")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestNamespacesCanBeRemovedAfterOtherToolsMadeTheirs(t *testing.T) {
	p := testPlan(t)
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("no ip(8) here")
	}
	if err := createNS(p.FabricNS); err != nil {
		t.Fatal(err)
	}
	other := p.FabricNS + "-other"
	for _, verb := range []string{"add", "del"} {
		if out, err := exec.Command("ip", "netns", verb, other).CombinedOutput(); err != nil {
			t.Fatalf("ip netns %s: %v: %s", verb, err, out)
		}
	}
	if err := DeleteNS(p.FabricNS); err != nil {
		t.Error(err)
	}
}

func TestRemovingWhatIsNotThereIsNoError(t *testing.T) {
	p := testPlan(t)
	if err := Down(p); err != nil {
		t.Error(err)
	}
	if slices.ContainsFunc(p.AllNetNS(), Exists) {
		t.Error("a namespace is there that nobody made")
	}
}
