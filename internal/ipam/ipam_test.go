// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func pool(t testing.TB, c *clock, ranges ...string) *Pool {
	t.Helper()
	var list []netip.Prefix
	for _, r := range ranges {
		list = append(list, netip.MustParsePrefix(r))
	}
	p, err := New(Options{Ranges: list, Now: c.now, Rest: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNetworkRouterAndBroadcastAddressesAreNeverGivenOut(t *testing.T) {
	for r, want := range map[string][]string{
		"10.0.1.0/29":   {"10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6"},
		"fd00:1::/125":  {"fd00:1::2", "fd00:1::3", "fd00:1::4", "fd00:1::5", "fd00:1::6", "fd00:1::7"},
		"10.0.1.248/29": {"10.0.1.250", "10.0.1.251", "10.0.1.252", "10.0.1.253", "10.0.1.254"},
	} {
		p := pool(t, &clock{}, r)
		for i, w := range want {
			if a, err := p.Allocate(fmt.Sprint(i)); err != nil || a.String() != w {
				t.Errorf("%s: got %s, %v instead of %s", r, a, err, w)
			}
		}
		if a, err := p.Allocate("more"); !errors.Is(err, ErrExhausted) {
			t.Errorf("%s: a full pool gave %s, %v", r, a, err)
		}
	}
}

func TestAReleasedAddressRestsBeforeItComesBack(t *testing.T) {
	c := &clock{}
	p := pool(t, c, "10.0.1.0/30")
	a, err := p.Allocate("one")
	if err != nil {
		t.Fatal(err)
	}
	p.Release(a, "somebody else")
	if p.Taken()[a] != "one" {
		t.Error("an address was released by someone who does not have it")
	}
	p.Release(a, "one")
	if _, err := p.Allocate("two"); !errors.Is(err, ErrExhausted) {
		t.Errorf("an address came back at once: %v", err)
	}
	c.t = c.t.Add(time.Minute)
	if b, err := p.Allocate("two"); err != nil || b != a {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestAReservedAddressIsNotGivenOut(t *testing.T) {
	p := pool(t, &clock{}, "10.0.1.0/30")
	a := netip.MustParseAddr("10.0.1.2")
	if err := p.Reserve(a, "found"); err != nil {
		t.Fatal(err)
	}
	if err := p.Reserve(a, "found"); err != nil {
		t.Errorf("the same owner again: %v", err)
	}
	if err := p.Reserve(a, "other"); !errors.Is(err, ErrTaken) {
		t.Errorf("got %v", err)
	}
	if _, err := p.Allocate("x"); !errors.Is(err, ErrExhausted) {
		t.Errorf("got %v", err)
	}
}

func TestAHugeRangeCostsNothing(t *testing.T) {
	p := pool(t, &clock{}, "fd00::/64")
	for i := range 1000 {
		if _, err := p.Allocate(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoAddressEverHasTwoOwners(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &clock{}
		p, err := New(Options{Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/29"), netip.MustParsePrefix("10.9.0.0/30")}, Now: c.now, Rest: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		owners := map[netip.Addr]string{}
		released := map[netip.Addr]time.Time{}
		for i := range 60 {
			c.t = c.t.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "s")) * time.Second)
			if rapid.Bool().Draw(t, "release") {
				for a, o := range owners {
					p.Release(a, o)
					delete(owners, a)
					released[a] = c.t
					break
				}
				continue
			}
			a, err := p.Allocate(fmt.Sprint(i))
			if err != nil {
				if free := 5 + 2 - len(owners); free > 0 && allRested(released, owners, c.t) {
					t.Fatalf("%d addresses are free, but: %v", free, err)
				}
				continue
			}
			if o, ok := owners[a]; ok {
				t.Fatalf("%s has the owners %s and %d", a, o, i)
			}
			if at, ok := released[a]; ok && c.t.Sub(at) < time.Minute {
				t.Fatalf("%s rested for only %s", a, c.t.Sub(at))
			}
			owners[a] = fmt.Sprint(i)
		}
	})
}

func allRested(released map[netip.Addr]time.Time, owners map[netip.Addr]string, now time.Time) bool {
	for a, at := range released {
		if _, taken := owners[a]; !taken && now.Sub(at) < time.Minute {
			return false
		}
	}
	return true
}

func TestAfterARestartTheSearchGoesOnBehindWhatIsInUse(t *testing.T) {
	p, err := New(Options{Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.0.1.9", "10.0.1.4", "192.168.0.1"} {
		if err := p.Reserve(netip.MustParseAddr(a), a); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := p.Allocate("new"); err != nil || a != netip.MustParseAddr("10.0.1.10") {
		t.Errorf("got %v, %v: 10.0.1.5 may have been given back just before", a, err)
	}
}
