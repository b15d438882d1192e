// SPDX-License-Identifier: Apache-2.0

package rest

// DefaultSocket is where the agent listens on its node.
const DefaultSocket = "/var/run/stentor/stentor.sock"

// FlowSocket is the name of the socket beside it on which the agent serves flows.
const FlowSocket = "hubble.sock"

// Paths of the calls. Those that end in a slash are followed by a name or a number.
const (
	PathHealthz                = "/v1/healthz"                  // GET StatusResponse; ?brief=true leaves out lists
	PathConfig                 = "/v1/config"                   // GET DaemonConfiguration; PATCH DaemonConfigurationSpec
	PathClusterNodes           = "/v1/cluster/nodes"            // GET ClusterNodeStatus
	PathEndpoint               = "/v1/endpoint"                 // GET []Endpoint
	PathEndpointID             = "/v1/endpoint/"                // GET Endpoint; {id}, {id}/log, {id}/healthz, {id}/labels, {id}/config
	PathIdentity               = "/v1/identity"                 // GET []Identity; ?labels=source:key=value, repeated
	PathIdentityID             = "/v1/identity/"                // GET Identity; "endpoints" gives []IdentityEndpoints
	PathPolicy                 = "/v1/policy"                   // GET Policy
	PathPolicySelectors        = "/v1/policy/selectors"         // GET []SelectorIdentityMapping of peers
	PathPolicySubjectSelectors = "/v1/policy/subject-selectors" // GET []SelectorIdentityMapping of subjects
	PathPolicyValidate         = "/v1/policy/validate"          // POST ValidateRequest -> []ObjectFit
	PathPolicyTrace            = "/v1/policy/trace"             // POST TraceRequest -> TraceResult
	PathPolicyWhy              = "/v1/policy/why"               // POST Event -> TraceResult
	PathIP                     = "/v1/ip"                       // GET []IPListEntry; ?cidr=
	PathNodeIDs                = "/v1/node/ids"                 // GET []NodeID
	PathService                = "/v1/service"                  // GET []Service
	PathLRP                    = "/v1/lrp"                      // GET []LRPSpec
	PathMap                    = "/v1/map"                      // GET BPFMapList
	PathMapName                = "/v1/map/"                     // GET BPFMap
	PathMetrics                = "/v1/metrics/"                 // GET []Metric

	PathDB      = "/v1/db"      // GET []TableInfo
	PathDBTable = "/v1/db/"     // GET Table
	PathBPF     = "/v1/bpf/"    // GET Table; endpoint ipcache policy ct nat metrics lb nodes
	PathMonitor = "/v1/monitor" // GET: one Event of JSON per line until the caller goes; filters see MonitorFilter

	PathCNIAdd    = "/v1/cni/add"    // PUT CNIRequest -> CNIResult or CNIError
	PathCNIDel    = "/v1/cni/del"    // PUT CNIRequest -> 200 or CNIError
	PathCNICheck  = "/v1/cni/check"  // PUT CNIRequest -> 200 or CNIError
	PathCNIStatus = "/v1/cni/status" // GET 200 or CNIError
	PathCNIGC     = "/v1/cni/gc"     // PUT CNIGCRequest -> 200 or CNIError
)
