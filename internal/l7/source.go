// SPDX-License-Identifier: Apache-2.0

package l7

// Source is a set of rules as policy has it, before it is compiled.
type Source struct {
	Number uint32
	// Lines are alternatives: "*" lets everything pass, others are the JSON of
	// a PortRule of cilium.io/v2.
	Lines []string
}

// Problem is a rule that allows nothing, since it was not understood.
type Problem struct {
	Number uint32
	Reason string
}
