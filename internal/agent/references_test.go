// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/service"
	"github.com/stentor-net/stentor/internal/table"
)

func TestReferencesAreOthersOnlyWhenPoliciesCanTell(t *testing.T) {
	tables, raw, _ := newTables()
	r := &references{}
	web := service.Service{Namespace: "default", Name: "web", Selector: map[string]string{"app": "web"}}
	outside := service.Service{Namespace: "default", Name: "outside"}
	slice := func(of string, last byte) service.Slice {
		return service.Slice{Namespace: "default", Name: of + "-1", Service: of, Endpoints: []service.SliceEndpoint{{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, last})}}}}
	}
	last := r.update(tables)
	for _, c := range []struct {
		what  string
		other bool
		do    func()
	}{
		{"a service while there is no policy", false, func() { raw.Services.Upsert(web) }},
		{"the first policy", true, func() { raw.Policies.Upsert(policy.Object{Namespace: "default", Name: "p"}) }},
		{"endpoints of a service with a selector", false, func() { raw.Slices.Upsert(slice("web", 1)) }},
		{"one without a selector", true, func() { raw.Services.Upsert(outside) }},
		{"its endpoints", true, func() { raw.Slices.Upsert(slice("outside", 1)) }},
		{"other endpoints of it", true, func() { raw.Slices.Upsert(slice("outside", 2)) }},
		{"the same again", false, func() { raw.Slices.Upsert(slice("outside", 2)) }},
		{"its slice belongs to another service", true, func() { s := slice("outside", 2); s.Service = "web"; raw.Slices.Upsert(s) }},
		{"the service goes", true, func() { raw.Services.Delete("default/outside") }},
		{"a group", true, func() { raw.Groups.Upsert(policy.Group{Name: "g"}) }},
	} {
		c.do()
		now := r.update(tables)
		if (now != last) != c.other {
			t.Errorf("%s: references are others: %v, want %v", c.what, now != last, c.other)
		}
		last = now
	}
}

func TestASliceThatChangesHandsConcernsBothServices(t *testing.T) {
	o := owners{}
	touched := func(key, of string, deleted bool) []string {
		dirty := map[string]bool{}
		o.touch(table.Change[service.Slice]{Key: key, Row: service.Slice{Namespace: "default", Service: of}, Deleted: deleted}, dirty)
		return slices.Sorted(maps.Keys(dirty))
	}
	for _, c := range []struct {
		of      string
		deleted bool
		want    []string
	}{{"a", false, []string{"default/a"}}, {"b", false, []string{"default/a", "default/b"}}, {"b", true, []string{"default/b"}}} {
		if got := touched("default/s", c.of, c.deleted); !slices.Equal(got, c.want) {
			t.Errorf("of %s, deleted %v: %q, want %q", c.of, c.deleted, got, c.want)
		}
	}
	if len(o) != 0 {
		t.Errorf("it remembers %v", o)
	}
}
