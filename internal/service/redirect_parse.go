// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// ReadRedirect reads a policy. One that cannot be carried out as a whole has Err
// set, and nothing of it is carried out.
func ReadRedirect(o *ciliumv2.CiliumLocalRedirectPolicy) Redirect {
	r := Redirect{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), Skip: o.Spec.SkipRedirectFromBackend}
	if err := r.read(&o.Spec); err != nil {
		return Redirect{Namespace: r.Namespace, Name: r.Name, UID: r.UID, Err: err.Error()}
	}
	return r
}

func (r *Redirect) read(spec *ciliumv2.LocalRedirectPolicySpec) (err error) {
	if r.Namespace == "" {
		return fmt.Errorf("it has no namespace")
	}
	address, service := spec.RedirectFrontend.AddressMatcher, spec.RedirectFrontend.ServiceMatcher
	switch {
	case address == nil && service == nil:
		return fmt.Errorf("redirectFrontend needs addressMatcher or serviceMatcher")
	case address != nil && service != nil:
		return fmt.Errorf("redirectFrontend has both addressMatcher and serviceMatcher")
	case address != nil:
		err = r.readAddress(address)
	default:
		err = r.readService(service)
	}
	if err != nil {
		return err
	}
	back := spec.RedirectBackend
	if r.Backends, err = readPorts("redirectBackend", back.ToPorts, true); err != nil {
		return err
	}
	selector := metav1.LabelSelector{MatchLabels: back.LocalEndpointSelector.MatchLabels}
	for _, e := range back.LocalEndpointSelector.MatchExpressions {
		selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: e.Operator, Values: e.Values})
	}
	if r.Selector, err = metav1.LabelSelectorAsSelector(&selector); err != nil {
		return fmt.Errorf("localEndpointSelector: %w", err)
	}
	if r.Selector.Empty() {
		r.Selector = labels.Everything()
	}
	return nil
}

func (r *Redirect) readAddress(m *ciliumv2.RedirectAddress) (err error) {
	a, err := netip.ParseAddr(strings.TrimSpace(m.IP))
	if err != nil {
		return fmt.Errorf("addressMatcher: %q is no address", m.IP)
	}
	r.Addr = a.Unmap()
	if r.Addr.IsLoopback() || r.Addr.IsUnspecified() || r.Addr.IsMulticast() || r.Addr.Zone() != "" {
		return fmt.Errorf("addressMatcher: %s is not an address that can be redirected", m.IP)
	}
	r.Ports, err = readPorts("addressMatcher", m.ToPorts, true)
	return err
}

func (r *Redirect) readService(m *ciliumv2.RedirectService) (err error) {
	switch {
	case m.ServiceName == "":
		return fmt.Errorf("serviceMatcher: serviceName is empty")
	case m.Namespace != r.Namespace:
		return fmt.Errorf("serviceMatcher: namespace %q is not the policy's own, %q", m.Namespace, r.Namespace)
	}
	r.Service = m.ServiceName
	r.Ports, err = readPorts("serviceMatcher", m.ToPorts, false)
	return err
}

// readPorts reads a list of ports; several need names, each another one.
func readPorts(where string, list []ciliumv2.RedirectPort, required bool) (out []RedirectPort, err error) {
	if required && len(list) == 0 {
		return nil, fmt.Errorf("%s: toPorts is empty", where)
	}
	names := map[string]bool{}
	for _, p := range list {
		number, err := strconv.ParseUint(p.Port, 10, 16)
		if err != nil || number == 0 {
			return nil, fmt.Errorf("%s: %q is not a port within 1..65535", where, p.Port)
		}
		one := RedirectPort{Name: strings.ToLower(p.Name), Port: uint16(number)}
		switch strings.ToUpper(p.Protocol) {
		case "TCP":
			one.Protocol = protocolTCP
		case "UDP":
			one.Protocol = protocolUDP
		default:
			return nil, fmt.Errorf("%s: protocol %q is neither TCP nor UDP", where, p.Protocol)
		}
		switch {
		case len(list) > 1 && one.Name == "":
			return nil, fmt.Errorf("%s: several ports need names, %s has none", where, one)
		case names[one.Name]:
			return nil, fmt.Errorf("%s: two ports have the name %q", where, p.Name)
		}
		names[one.Name] = true
		out = append(out, one)
	}
	return out, nil
}
