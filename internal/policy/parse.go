// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	npa "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// ErrNoRule is why a Cilium policy without spec and specs is quarantined.
var ErrNoRule = errors.New("spec or specs is required")

// parse turns an object into rules; refs is what they may name.
func parse(o Object, opts *Options, refs *References) parsed {
	if o.Err != "" {
		return parsed{err: errors.New(o.Err)}
	}
	switch spec := o.Spec.(type) {
	case *networkingv1.NetworkPolicy:
		if spec != nil {
			return parseNetworkPolicy(&o, opts, spec)
		}
	case *ciliumv2.CiliumNetworkPolicy:
		if spec != nil {
			return parseCilium(&o, namespaceOf(o.Namespace), opts, refs, spec.Spec, spec.Specs)
		}
	case *ciliumv2.CiliumClusterwideNetworkPolicy:
		if spec != nil {
			return parseCilium(&o, "", opts, refs, spec.Spec, spec.Specs)
		}
	case *npa.ClusterNetworkPolicy:
		if spec != nil {
			return parseClusterPolicy(&o, opts, &spec.Spec)
		}
	}
	return parsed{err: fmt.Errorf("no content of kind %s", o.Kind)}
}

func namespaceOf(namespace string) string {
	if namespace == "" {
		return "default"
	}
	return namespace
}
