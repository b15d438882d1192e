// SPDX-License-Identifier: Apache-2.0

package load

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// Foreign is a program of somebody else on a hook that has ours. It is left alone.
type Foreign struct {
	Device   string
	Hook     string // ingress or egress
	What     string // kind, name and priority
	IsBefore bool   // it sees packets before ours, and can keep them from it
}

func (f Foreign) String() string { return f.What + " on " + f.Hook }

// Foreign lists the programs of others on the hooks of devices.
func (p *Programs) Foreign(devices ...int) ([]Foreign, error) {
	var out []Foreign
	for _, d := range devices {
		l, err := p.tc.nl.LinkByIndex(d)
		if err != nil {
			continue // gone meanwhile
		}
		name := l.Attrs().Name
		for _, h := range []hook{ingress, egress} {
			out = append(out, foreignTCX(name, d, h)...)
			filters, err := p.tc.filters(d, h)
			if err != nil {
				return nil, err
			}
			out = append(out, foreignFilters(name, h, filters)...)
		}
	}
	return out, nil
}

// foreignFilters goes through filters in the order in which packets meet them.
func foreignFilters(device string, h hook, filters []netlink.Filter) (out []Foreign) {
	before := true
	for _, f := range filters {
		b, isProgram := f.(*netlink.BpfFilter)
		if isProgram && strings.HasPrefix(b.Name, filterPrefix) {
			before = false
			continue
		}
		what := f.Type() + " filter"
		if isProgram {
			what += " " + cmp.Or(b.Name, "without a name")
		}
		out = append(out, Foreign{device, h.String(), fmt.Sprintf("%s of priority %d", what, f.Attrs().Priority), before})
	}
	return out
}

// foreignTCX are programs that the kernel runs before all filters. The device
// must be of the calling thread's namespace.
func foreignTCX(name string, device int, h hook) (out []Foreign) {
	at := ebpf.AttachTCXIngress
	if h == egress {
		at = ebpf.AttachTCXEgress
	}
	list, err := link.QueryPrograms(link.QueryOptions{Target: device, Attach: at})
	if err != nil { // kernels before 6.6 have none; nor has a device that is gone
		return nil
	}
	for _, p := range list.Programs {
		out = append(out, Foreign{name, h.String(), fmt.Sprintf("tcx program %d", p.ID), true})
	}
	return out
}
