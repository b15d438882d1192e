// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
)

// The functions here make tries in every family that the run has.

// perFamily makes tries for each address family.
func (t *trial) perFamily(fill func(family int) []try) (out []try) {
	for _, f := range t.families {
		out = append(out, fill(f)...)
	}
	return out
}

// request to a server of a pod.
func request(kind string, to netip.Addr, first uint16) probe.Request {
	r := probe.Request{Kind: kind, Host: to.String()}
	switch kind {
	case probe.HTTP:
		r.Port = first + probe.HTTPPort
	case probe.TCP, probe.UDP, probe.FullMTU:
		r.Port = first + probe.EchoPort
	}
	return r
}

// toPod makes one try per kind and family to a pod's own address.
func (t *trial) toPod(from, to string, kinds ...string) []try {
	return t.perFamily(func(family int) (out []try) {
		src, dst := t.pods[from], t.pods[to]
		ip, ok := dst.ip(family)
		if !ok {
			return nil
		}
		for _, kind := range kinds {
			x := try{from: src, to: fmt.Sprintf("%s (%s)", to, ip), req: request(kind, ip, dst.Port), addrs: dst.addrs}
			if kind == probe.HTTP {
				x.good = answersAs(to)
			}
			out = append(out, x)
		}
		return out
	})
}

// sized is the same with so many bytes.
func sized(size int, tries []try) []try {
	for i := range tries {
		tries[i].req.Size = size
	}
	return tries
}

func denied(tries []try) []try {
	for i := range tries {
		tries[i].denied = true
	}
	return tries
}

func answersAs(name string) func(probe.Answer) string {
	return func(a probe.Answer) string {
		if a.Server != name {
			return fmt.Sprintf("%q answers instead", a.Server)
		}
		return ""
	}
}

// seesSource wants that the server sees the pod's own address.
func seesSource(tries []try) []try {
	for i, x := range tries {
		if x.req.Kind != probe.HTTP {
			continue
		}
		good := x.good
		tries[i].good = func(a probe.Answer) string {
			if text := good(a); text != "" {
				return text
			}
			if !isOneOf(a.Source, x.from.addrs) {
				return "the server sees " + a.Source + " instead of the address of the pod"
			}
			return ""
		}
	}
	return tries
}

func (t *trial) eachService(fill func(name string) []try) (out []try) {
	for _, name := range slices.Sorted(maps.Keys(t.services)) {
		out = append(out, fill(name)...)
	}
	return out
}

// toService makes tries to the addresses of a service.
func (t *trial) toService(from, name string, kinds ...string) []try {
	return t.perFamily(func(family int) (out []try) {
		for _, ip := range t.services[name] {
			if familyOf(ip) == family {
				out = append(out, t.toFrontend(from, name, ip.String(), 0, kinds...)...)
			}
		}
		return out
	})
}

// toName makes tries to a service by its name in the cluster's DNS.
func (t *trial) toName(from, name string, kinds ...string) []try {
	return t.perFamily(func(family int) (out []try) {
		for _, ip := range t.services[name] {
			if familyOf(ip) == family {
				out = append(out, t.toFrontend(from, name, name+"."+t.namespace+".svc", family, kinds...)...)
			}
		}
		return out
	})
}

func (t *trial) toFrontend(from, name, host string, family int, kinds ...string) (out []try) {
	to := "service " + name + " (" + host
	if family != 0 {
		to += " IPv" + strconv.Itoa(family)
	}
	for _, kind := range kinds {
		x := try{from: t.pods[from], to: to + ")", req: probe.Request{Kind: kind, Host: host, Port: 7, Family: family}, addrs: t.pods[name].addrs}
		if kind == probe.HTTP {
			x.req.Port, x.good = 80, answersAs(name)
		}
		out = append(out, x)
	}
	return out
}

// toOutside makes tries to the targets that the user gave.
func (t *trial) toOutside(from string) (out []try) {
	for _, e := range t.external {
		x := try{from: t.pods[from], to: e.String(), req: probe.Request{Kind: probe.Ping, Host: e.host, Port: e.port}}
		if e.port != 0 {
			x.req.Kind = probe.Connect
		}
		if ip, err := netip.ParseAddr(e.host); err == nil {
			x.addrs = []netip.Addr{ip}
		}
		out = append(out, x)
	}
	return out
}
