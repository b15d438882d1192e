// SPDX-License-Identifier: Apache-2.0

package rest

// Codes of CNIError: those of the CNI specification and of this plugin (100 and up).
const (
	CNIIncompatibleVersion = 1
	CNIUnsupportedField    = 2
	CNIUnknownContainer    = 3
	CNIInvalidEnvironment  = 4
	CNIIOFailure           = 5
	CNIDecodeFailure       = 6
	CNIInvalidConfig       = 7
	CNITryAgain            = 11 // the runtime should call again later
	CNIPluginNotAvailable  = 50 // STATUS: not able to serve ADD
	CNILimitedConnectivity = 51 // STATUS: existing pods may have limited connectivity
	CNIFailed              = 100
	CNINoAddress           = 101 // the node's pod ranges are used up
)

// CNIRequest is one attachment of a container, as the runtime names it.
type CNIRequest struct {
	ContainerID  string `json:"containerID"`
	NetNS        string `json:"netns,omitempty"` // path; may be empty for DEL
	IfName       string `json:"ifName"`
	PodNamespace string `json:"podNamespace,omitempty"` // K8S_POD_NAMESPACE
	PodName      string `json:"podName,omitempty"`      // K8S_POD_NAME
	PodUID       string `json:"podUID,omitempty"`       // K8S_POD_UID; older runtimes send none
	// Addresses of the previous result, for CHECK; "10.0.1.7/32". Optional.
	Addresses []string `json:"addresses,omitempty"`
}

// CNIResult answers ADD. Addresses are in text, MACs as 02:00:00:00:00:01.
type CNIResult struct {
	HostIfName string       `json:"hostIfName"`
	HostMAC    string       `json:"hostMAC"`
	MAC        string       `json:"mac"` // of the interface in the container
	MTU        int          `json:"mtu"` // bytes
	Addresses  []CNIAddress `json:"addresses"`
	Routes     []CNIRoute   `json:"routes"`
	EndpointID int          `json:"endpointID"`
	Identity   int64        `json:"identity"`
}

// CNIAddress is one address of the container with its gateway.
type CNIAddress struct {
	Address string `json:"address"` // with prefix length: "10.0.1.7/32"
	Gateway string `json:"gateway"` // "10.0.1.1"
}

// CNIRoute is a route inside the container.
type CNIRoute struct {
	Dst string `json:"dst"` // "0.0.0.0/0"
	GW  string `json:"gw,omitempty"`
	MTU int    `json:"mtu,omitempty"` // bytes; 0: the interface's
}

// CNIGCRequest lists the attachments that are still in use; all others of this
// network may go.
type CNIGCRequest struct {
	ValidAttachments []CNIAttachment `json:"validAttachments"`
}

// CNIAttachment is a container's interface.
type CNIAttachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// CNIError answers a call below /v1/cni that did not work.
type CNIError struct {
	Code    int    `json:"code"` // CNI*
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// Error makes CNIError an error.
func (e *CNIError) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}
