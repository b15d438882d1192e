// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func prefixes(text ...string) (out []netip.Prefix) {
	for _, s := range text {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func clusterPool(t *testing.T, o ClusterOptions) *ClusterPool {
	t.Helper()
	p, err := NewClusterPool(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func claim(node string, age int, ranges ...string) Claim {
	return Claim{Node: node, Created: time.Unix(int64(1000-age), 0), Ranges: prefixes(ranges...)}
}

func text(list []Assignment) string {
	var out []string
	for _, a := range list {
		out = append(out, fmt.Sprintf("%s=%v %s", a.Node, a.Ranges, a.Error))
	}
	return strings.Join(out, "\n")
}

func TestEveryNodeGetsARangePerFamily(t *testing.T) {
	p := clusterPool(t, ClusterOptions{IPv4: prefixes("10.0.0.0/8"), IPv6: prefixes("fd00::/104")})
	got := text(p.Assign([]Claim{claim("b", 1), claim("a", 2)}))
	want := "a=[10.0.0.0/24 fd00::/120] \nb=[10.0.1.0/24 fd00::100/120] "
	if got != want {
		t.Errorf("got %s", got)
	}
}

func TestWhatANodeHasIsKept(t *testing.T) {
	p := clusterPool(t, ClusterOptions{IPv4: prefixes("10.0.0.0/22")})
	for name, c := range map[string]struct {
		claims []Claim
		want   string
	}{
		"a range of its own":          {[]Claim{claim("a", 2, "10.0.2.0/24"), claim("b", 1)}, "a=[10.0.2.0/24] \nb=[10.0.3.0/24] "},
		"a free one is used late":     {[]Claim{claim("a", 2, "10.0.3.0/24"), claim("b", 1)}, "a=[10.0.3.0/24] \nb=[10.0.0.0/24] "},
		"one of another size":         {[]Claim{claim("a", 2, "10.0.0.0/23"), claim("b", 1), claim("c", 0)}, "a=[10.0.0.0/23] \nb=[10.0.2.0/24] \nc=[10.0.3.0/24] "},
		"a smaller one":               {[]Claim{claim("a", 2, "10.0.3.128/25"), claim("b", 1)}, "a=[10.0.3.128/25] \nb=[10.0.0.0/24] "},
		"one outside of the pool":     {[]Claim{claim("a", 2, "192.168.0.0/24"), claim("b", 1)}, "a=[192.168.0.0/24] \nb=[10.0.0.0/24] "},
		"an overlap is told, kept":    {[]Claim{claim("young", 1, "10.0.1.0/24"), claim("old", 2, "10.0.1.0/24")}, "old=[10.0.1.0/24] \nyoung=[10.0.1.0/24] range 10.0.1.0/24 overlaps 10.0.1.0/24 of node old"},
		"nothing left is told":        {[]Claim{claim("a", 2, "10.0.0.0/22"), claim("b", 1)}, "a=[10.0.0.0/22] \nb=[] no free IPv4 range"},
		"a range around the whole":    {[]Claim{claim("a", 2, "10.0.0.0/8"), claim("b", 1)}, "a=[10.0.0.0/8] \nb=[] no free IPv4 range"},
		"the other family is no ours": {[]Claim{claim("a", 2, "fd00::/120")}, "a=[fd00::/120 10.0.0.0/24] "},
	} {
		if got := text(p.Assign(c.claims)); got != c.want {
			t.Errorf("%s:\nwant %s\n got %s", name, c.want, got)
		}
	}
}

func TestSeveralClusterRangesAreUsedOneAfterTheOther(t *testing.T) {
	p := clusterPool(t, ClusterOptions{IPv4: prefixes("10.1.0.0/23", "10.9.0.0/24")})
	got := text(p.Assign([]Claim{claim("a", 4), claim("b", 3), claim("c", 2), claim("d", 1)}))
	if want := "a=[10.1.0.0/24] \nb=[10.1.1.0/24] \nc=[10.9.0.0/24] \nd=[] no free IPv4 range"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for want, o := range map[string]ClusterOptions{
		"no range":         {},
		"is no IPv4 range": {IPv4: prefixes("fd00::/104")},
		"is no IPv6 range": {IPv6: prefixes("10.0.0.0/8")},
		"no /24 fits":      {IPv4: prefixes("10.0.0.0/25")},
		"no /31 fits":      {IPv4: prefixes("10.0.0.0/25"), IPv4Mask: 31},
		"holds too many":   {IPv6: prefixes("fd00::/64")},
		"/16 overlap":      {IPv4: prefixes("10.0.0.0/8", "10.1.0.0/16")},
	} {
		if _, err := NewClusterPool(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestAssigningTwiceChangesNothingAndTheOrderOfClaimsNeither(t *testing.T) {
	p := clusterPool(t, ClusterOptions{IPv4: prefixes("10.0.0.0/20"), IPv6: prefixes("fd00::/116")})
	rapid.Check(t, func(r *rapid.T) {
		var claims []Claim
		for i := range rapid.IntRange(0, 16).Draw(r, "nodes") {
			c := claim(fmt.Sprint("n", i), rapid.IntRange(0, 3).Draw(r, "age"))
			if rapid.Bool().Draw(r, "has") {
				c.Ranges = prefixes(fmt.Sprintf("10.0.%d.0/24", i))
			}
			claims = append(claims, c)
		}
		first := p.Assign(claims)
		shuffled := slices.Clone(claims)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := p.Assign(shuffled); text(got) != text(first) {
			r.Fatalf("order matters:\n%s\n%s", text(first), text(got))
		}
		var again []Claim
		for _, a := range first {
			i := slices.IndexFunc(claims, func(c Claim) bool { return c.Node == a.Node })
			again = append(again, Claim{Node: a.Node, Created: claims[i].Created, Ranges: a.Ranges})
		}
		if got := p.Assign(again); text(got) != text(first) {
			r.Fatalf("a restart changes ranges:\n%s\n%s", text(first), text(got))
		}
		for i, a := range first {
			if a.Error != "" {
				r.Fatalf("%s: %s", a.Node, a.Error)
			}
			for _, b := range first[:i] {
				for _, x := range a.Ranges {
					for _, y := range b.Ranges {
						if x.Overlaps(y) {
							r.Fatalf("%s and %s both have %s", a.Node, b.Node, x)
						}
					}
				}
			}
		}
	})
}
