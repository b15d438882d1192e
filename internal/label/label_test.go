// SPDX-License-Identifier: Apache-2.0

package label

import (
	"slices"
	"testing"
)

func TestALabelIsReadWithAndWithoutItsSource(t *testing.T) {
	for text, want := range map[string]Label{
		"k8s:app=curl":                       {SourceK8s, "app", "curl"},
		"app=curl":                           {SourceAny, "app", "curl"},
		"reserved:host":                      {SourceReserved, "host", ""},
		"k8s:image=registry.example:5000/a":  {SourceK8s, "image", "registry.example:5000/a"},
		"image=registry.example:5000/a":      {SourceAny, "image", "registry.example:5000/a"},
		"k8s:io.kubernetes.pod.namespace=ns": {SourceK8s, KeyNamespace, "ns"},
		"cidr:2001-db8--0/64":                {SourceCIDR, "2001-db8--0/64", ""},
		"k8s:note=a=b":                       {SourceK8s, "note", "a=b"},
	} {
		if got := Parse(text); got != want {
			t.Errorf("%q: got %#v, want %#v", text, got, want)
		}
		if l := Parse(text); l.Source != SourceAny && l.String() != text {
			t.Errorf("%q is written as %q", text, l)
		}
	}
}

func TestTheLastOfTwoLabelsWithOneKeyWins(t *testing.T) {
	s := ParseSet([]string{"k8s:b=1", "k8s:a=1", "k8s:b=2", "reserved:b"})
	if want := []string{"k8s:a=1", "k8s:b=2", "reserved:b"}; !slices.Equal(s.Strings(), want) {
		t.Errorf("got %v, want %v", s.Strings(), want)
	}
	if a, b := ParseSet([]string{"k8s:a=1", "k8s:b=2"}), ParseSet([]string{"k8s:b=2", "k8s:a=1"}); a.Key() != b.Key() {
		t.Errorf("equal sets have the keys %q and %q", a.Key(), b.Key())
	}
	if a, b := ParseSet([]string{"k8s:a=1"}), ParseSet([]string{"k8s:a=1", "k8s:b=2"}); a.Key() == b.Key() {
		t.Errorf("different sets have the key %q", a.Key())
	}
}

func TestAnySourceFindsAKeyOfWhateverSource(t *testing.T) {
	s := ParseSet([]string{"k8s:app=curl", "reserved:host"})
	for _, c := range []struct {
		source, key, value string
		found              bool
	}{{SourceAny, "app", "curl", true}, {SourceK8s, "app", "curl", true}, {SourceReserved, "app", "", false}, {SourceAny, "host", "", true}, {SourceK8s, "host", "", false}} {
		if value, found := s.Get(c.source, c.key); value != c.value || found != c.found {
			t.Errorf("%s:%s: got %q, %t", c.source, c.key, value, found)
		}
	}
}
