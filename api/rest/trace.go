// SPDX-License-Identifier: Apache-2.0

package rest

// TraceParty names one end of a connection to ask about, by exactly one of its fields.
type TraceParty struct {
	Pod      string `json:"pod,omitempty"`      // NAMESPACE/NAME, of any node
	IP       string `json:"ip,omitempty"`       // an address
	Identity int64  `json:"identity,omitempty"` // a number of an identity
	Labels   Labels `json:"labels,omitempty"`   // of a pod that need not be there; "key=value" is k8s:key=value
}

// TraceRequest asks what policy says about a connection.
type TraceRequest struct {
	Source      TraceParty `json:"source"`
	Destination TraceParty `json:"destination"`
	Protocol    string     `json:"protocol,omitempty"`  // name or IANA number; default TCP
	Port        int        `json:"port,omitempty"`      // of the destination; ICMP: type
	AnyPort     bool       `json:"any-port,omitempty"`  // only what holds for every port; Port does not count
	Family      int        `json:"family,omitempty"`    // 4 or 6; default: the first that both ends have
	Manifests   []string   `json:"manifests,omitempty"` // YAML or JSON of policies that are judged as if they were stored
}

// TraceResult says what policy decides about a connection, and why.
type TraceResult struct {
	Verdict     string      `json:"verdict"` // Trace*
	Source      TraceEnd    `json:"source"`
	Destination TraceEnd    `json:"destination"`
	Protocol    string      `json:"protocol"`
	Port        int         `json:"port"` // -1: any
	Egress      *TraceSide  `json:"egress,omitempty"`
	Ingress     *TraceSide  `json:"ingress,omitempty"`
	Objects     []ObjectFit `json:"objects,omitempty"` // what became of the manifests
	Notes       []string    `json:"notes,omitempty"`
}

// ValidateRequest asks what would become of policies.
type ValidateRequest struct {
	Manifests []string `json:"manifests"` // YAML or JSON
}

// ObjectFit says what would become of a policy, or became of it.
type ObjectFit struct {
	Object   string       `json:"object"` // kind/namespace/name
	Valid    bool         `json:"valid"`
	Reason   string       `json:"reason,omitempty"`
	Warnings []FitWarning `json:"warnings,omitempty"`
}

// FitWarning is about something that is allowed and hardly meant.
type FitWarning struct {
	Path string `json:"path,omitempty"` // of the rule
	Text string `json:"text"`
}

// Verdicts of a trace.
const (
	TraceAllowed    = "allowed"
	TraceDenied     = "denied"
	TraceRedirected = "redirected" // to the proxy, which judges each request
)

// TraceEnd says who an end of a connection is.
type TraceEnd struct {
	Name     string `json:"name"`
	Pod      string `json:"pod,omitempty"`
	Node     string `json:"node,omitempty"` // that has it
	IP       string `json:"ip,omitempty"`
	Identity int64  `json:"identity,omitempty"`
	Labels   Labels `json:"labels,omitempty"`
}

// TraceSide is the verdict of one direction, which the policy of one end gives.
type TraceSide struct {
	Verdict   string `json:"verdict"`
	Judged    string `json:"judged,omitempty"` // node whose agent answered
	Elsewhere bool   `json:"elsewhere,omitempty"`
	Enforcing bool   `json:"enforcing"` // a policy selects the end, or the mode is always
	Why       string `json:"why"`

	Deciding []RuleRef `json:"deciding,omitempty"` // rules that allow or deny
	Matching []RuleRef `json:"matching,omitempty"` // all rules that speak of this peer and port
	Default  []RuleRef `json:"default,omitempty"`  // rules that put the end under default deny
	Nearest  []RuleRef `json:"nearest,omitempty"`  // rules that would have allowed, with what is missing
	Revision int64     `json:"revision,omitempty"` // of the policy that was asked
}

// RuleRef names a rule of a policy object.
type RuleRef struct {
	Kind      string   `json:"kind,omitempty"` // empty: a setting of the agent
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name"`
	Path      string   `json:"path,omitempty"`  // such as spec.egress[1].toPorts[0]
	Index     *int     `json:"index,omitempty"` // of the rule within its section
	Verdict   string   `json:"verdict,omitempty"`
	Tier      string   `json:"tier,omitempty"`
	Missing   []string `json:"missing,omitempty"` // why it does not apply
}

// EventCell says where in the kernel's tables a verdict was found.
type EventCell struct {
	Peer       uint32 `json:"peer"` // 0: nobody known; 1: an identity whose labels were not known
	Slot       uint16 `json:"slot"`
	Set        uint16 `json:"set"`
	Row        uint16 `json:"row"`        // of the set
	Generation uint32 `json:"generation"` // of the endpoint's policy when judged, 24 bits
}
