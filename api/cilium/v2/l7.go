// SPDX-License-Identifier: Apache-2.0

package v2

// L7Rules are the rules of one application protocol. A rule list that is
// present but empty, or holds an empty rule, allows everything and is there
// for the records it yields.
//
// +stentor:oneOf={http,kafka,dns,l7proto}
type L7Rules struct {
	// HTTP rules are ORed.
	//
	// +optional
	HTTP []HTTPRule `json:"http,omitzero"`

	// Kafka rules are ORed.
	//
	// +optional
	Kafka []KafkaRule `json:"kafka,omitzero"`

	// DNS rules are ORed.
	//
	// +optional
	DNS []FQDNSelector `json:"dns,omitzero"`

	// L7Proto names the parser of the rules in L7.
	//
	// +optional
	L7Proto string `json:"l7proto,omitempty"`

	// L7 rules are key/value pairs for the parser named by L7Proto.
	//
	// +optional
	L7 []map[string]string `json:"l7,omitzero"`
}

// HTTPRule matches HTTP requests. All members that are set must match.
type HTTPRule struct {
	// Path is a POSIX extended regular expression over the whole path.
	//
	// +optional
	Path string `json:"path,omitempty"`

	// Method is a POSIX extended regular expression over the whole method.
	//
	// +optional
	Method string `json:"method,omitempty"`

	// Host is a POSIX extended regular expression over the whole host.
	//
	// +optional
	Host string `json:"host,omitempty"`

	// Headers must be present, as "Name" or with a value as "Name value".
	//
	// +optional
	Headers []string `json:"headers,omitzero"`

	// HeaderMatches must be present, with what happens if they are not.
	//
	// +optional
	HeaderMatches []HeaderMatch `json:"headerMatches,omitzero"`
}

// HeaderMatch is one header that a request must carry.
type HeaderMatch struct {
	// Mismatch says what to do with a request that does not match: log and
	// allow it, or add, delete or replace the header. Empty denies it.
	//
	// +kubebuilder:validation:Enum=LOG;ADD;DELETE;REPLACE
	// +optional
	Mismatch string `json:"mismatch,omitempty"`

	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`

	// Secret holds the value; it wins over Value.
	//
	// +optional
	Secret *Secret `json:"secret,omitempty"`

	// +optional
	Value string `json:"value,omitempty"`
}

// KafkaRule matches Kafka requests. All members that are set must match.
// Role and APIKey exclude each other.
type KafkaRule struct {
	// Role is a group of request kinds.
	//
	// +kubebuilder:validation:Enum=produce;consume
	// +optional
	Role string `json:"role,omitempty"`

	// APIKey is the lower-case name of one request kind; empty is all.
	//
	// +optional
	APIKey string `json:"apiKey,omitempty"`

	// APIVersion is a decimal number that must match exactly; empty is all.
	//
	// +optional
	APIVersion string `json:"apiVersion,omitempty"`

	// ClientID must match exactly; empty is all.
	//
	// +optional
	ClientID string `json:"clientID,omitempty"`

	// Topic restricts requests that carry topics to this one; empty is all.
	//
	// +kubebuilder:validation:MaxLength=255
	// +optional
	Topic string `json:"topic,omitempty"`
}
