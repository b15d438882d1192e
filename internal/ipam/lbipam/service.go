// SPDX-License-Identifier: Apache-2.0

package lbipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Annotations of Services; the older names count where the newer are absent.
const (
	AnnotationIPs       = "lbipam.cilium.io/ips" // addresses that are asked for, separated by commas
	AnnotationKey       = "lbipam.cilium.io/sharing-key"
	AnnotationNamespace = "lbipam.cilium.io/sharing-cross-namespace" // namespaces that may share the address, or *

	olderIPs       = "io.cilium/lb-ipam-ips"
	olderKey       = "io.cilium/lb-ipam-sharing-key"
	olderNamespace = "io.cilium/lb-ipam-sharing-cross-namespace"
)

// Satisfied is the type of the condition on Services that have, or should have,
// an address of a pool.
const Satisfied = "cilium.io/IPAMRequestSatisfied"

// Reasons of the condition.
const (
	ReasonSatisfied    = "satisfied"
	ReasonNoPool       = "no_pool"
	ReasonFull         = "out_of_ips"
	ReasonTaken        = "already_allocated"
	ReasonIncompatible = "already_allocated_incompatible_service"
	ReasonInvalid      = "invalid_request"
)

// classes are values of loadBalancerClass that ask for an address of a pool.
var classes = []string{"io.cilium/bgp-control-plane", "io.cilium/l2-announcer"}

// Service is what counts of a Service.
type Service struct {
	Namespace, Name, UID string
	Version              string // resourceVersion
	Created              time.Time
	LoadBalancer         bool // its type
	Class                string
	Labels               map[string]string
	Want4, Want6         bool
	Asked                []netip.Addr
	AskedErr             string
	Key                  string   // sharing key; empty: it shares with nobody
	With                 []string // other namespaces that it shares with
	Local                bool     // externalTrafficPolicy
	Selector             map[string]string
	Ports                []string // protocol/number
	Ingress              []corev1.LoadBalancerIngress
	Conditions           []metav1.Condition
}

// ReadService reads a Service; false if it never had to do with load balancers.
func ReadService(o *corev1.Service) (Service, bool) {
	s := Service{
		Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), Version: o.ResourceVersion, Created: o.CreationTimestamp.Time,
		LoadBalancer: o.Spec.Type == corev1.ServiceTypeLoadBalancer, Labels: o.Labels,
		Local: o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal, Selector: o.Spec.Selector,
		Ingress: o.Status.LoadBalancer.Ingress, Conditions: o.Status.Conditions,
	}
	if !s.LoadBalancer && s.mark() == "" {
		return s, false
	}
	if o.Spec.LoadBalancerClass != nil {
		s.Class = *o.Spec.LoadBalancerClass
	}
	for _, f := range o.Spec.IPFamilies {
		s.Want4 = s.Want4 || f == corev1.IPv4Protocol
		s.Want6 = s.Want6 || f == corev1.IPv6Protocol
	}
	s.Want4 = s.Want4 || !s.Want6
	for _, p := range o.Spec.Ports {
		s.Ports = append(s.Ports, fmt.Sprintf("%s/%d", p.Protocol, p.Port))
	}
	s.Key = first(o.Annotations, AnnotationKey, olderKey)
	s.With = words(first(o.Annotations, AnnotationNamespace, olderNamespace))
	asked := words(first(o.Annotations, AnnotationIPs, olderIPs))
	if o.Spec.LoadBalancerIP != "" && len(asked) == 0 {
		asked = []string{o.Spec.LoadBalancerIP}
	}
	for _, text := range asked {
		a, err := netip.ParseAddr(text)
		if err != nil {
			s.AskedErr = fmt.Sprintf("%q is no address", text)
			continue
		}
		if a = a.Unmap(); !slices.Contains(s.Asked, a) {
			s.Asked = append(s.Asked, a)
		}
	}
	return s, true
}

func first(all map[string]string, names ...string) string {
	for _, n := range names {
		if v := strings.TrimSpace(all[n]); v != "" {
			return v
		}
	}
	return ""
}

func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// ObjectKey is namespace/name.
func (s *Service) ObjectKey() string { return s.Namespace + "/" + s.Name }

// mark is the status of our condition; empty: it has none.
func (s *Service) mark() metav1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == Satisfied {
			return c.Status
		}
	}
	return ""
}

// has are the addresses in the status.
func (s *Service) has() (out []netip.Addr) {
	for _, in := range s.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

func (s *Service) wants(a netip.Addr) bool { return a.Is4() && s.Want4 || a.Is6() && s.Want6 }

// labels that pools select by.
func (s *Service) labels() labels.Set {
	out := labels.Set{}
	maps.Copy(out, s.Labels)
	out["io.kubernetes.service.namespace"], out["io.kubernetes.service.name"] = s.Namespace, s.Name
	return out
}

// apart tells why two Services cannot share an address; empty: they can.
func (s *Service) apart(o *Service) string {
	lets := func(a, b *Service) bool { return slices.Contains(a.With, "*") || slices.Contains(a.With, b.Namespace) }
	switch {
	case s.Key == "" || o.Key == "":
		return "no sharing key"
	case s.Key != o.Key:
		return "different sharing key"
	case s.Namespace != o.Namespace && !(lets(s, o) && lets(o, s)):
		return "namespaces that do not share"
	case slices.ContainsFunc(s.Ports, func(p string) bool { return slices.Contains(o.Ports, p) }):
		return "same port"
	case s.Local != o.Local:
		return "different externalTrafficPolicy"
	case s.Local && !maps.Equal(s.Selector, o.Selector):
		return "externalTrafficPolicy Local and different selector"
	}
	return ""
}
