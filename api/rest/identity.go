// SPDX-License-Identifier: Apache-2.0

package rest

// Identity is the number of a label set.
type Identity struct {
	ID           int64  `json:"id,omitempty"`
	Labels       Labels `json:"labels,omitempty"`
	LabelsSHA256 string `json:"labelsSHA256,omitempty"`
}

// IdentityEndpoints counts the local endpoints of an identity.
type IdentityEndpoints struct {
	Identity *Identity `json:"identity,omitempty"`
	RefCount int64     `json:"refCount,omitempty"`
}

// IPListEntry says who is behind a prefix.
type IPListEntry struct {
	CIDR       string               `json:"cidr"`
	Identity   int64                `json:"identity"`
	HostIP     string               `json:"hostIP,omitempty"`
	EncryptKey int64                `json:"encryptKey,omitempty"`
	Metadata   *IPListEntryMetadata `json:"metadata,omitempty"`
}

// IPListEntryMetadata names the object behind an address.
type IPListEntryMetadata struct {
	Source    string `json:"source,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// Policy is the whole policy set.
type Policy struct {
	Revision int64  `json:"revision,omitempty"`
	Policy   string `json:"policy,omitempty"` // JSON text of the objects with their status: a list of PolicyObject
}

// PolicyObject is an entry of Policy.Policy.
type PolicyObject struct {
	Kind       string   `json:"kind"`
	Namespace  string   `json:"namespace,omitempty"`
	Name       string   `json:"name"`
	Generation int64    `json:"generation,omitempty"`
	Valid      bool     `json:"valid"`
	Reason     string   `json:"reason,omitempty"`
	Endpoints  []uint16 `json:"endpoints,omitempty"` // of this node, that it selects
	Object     any      `json:"object,omitempty"`    // as the API gave it
}

// SelectorIdentityMapping is a selector with the identities it selects.
type SelectorIdentityMapping struct {
	Selector   string   `json:"selector,omitempty"`
	Identities []int64  `json:"identities,omitempty"`
	Users      int64    `json:"users,omitempty"`    // how many policies
	Policies   []string `json:"policies,omitempty"` // kind/namespace/name
}
