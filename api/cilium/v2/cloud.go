// SPDX-License-Identifier: Apache-2.0

package v2

// The types of this file are those parts of a CiliumNode that are specific to
// a cloud provider. Stentor keeps them, and uses none yet.

// ENISpec is how addresses are taken from AWS network interfaces.
type ENISpec struct {
	// +optional
	InstanceType string `json:"instance-type,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +optional
	FirstInterfaceIndex *int `json:"first-interface-index,omitempty"`
	// +optional
	SecurityGroups []string `json:"security-groups,omitempty"`
	// +optional
	SecurityGroupTags map[string]string `json:"security-group-tags,omitempty"`
	// +optional
	SubnetIDs []string `json:"subnet-ids,omitempty"`
	// +optional
	SubnetTags map[string]string `json:"subnet-tags,omitempty"`
	// +optional
	NodeSubnetID string `json:"node-subnet-id,omitempty"`
	// +optional
	VpcID string `json:"vpc-id,omitempty"`
	// +optional
	AvailabilityZone string `json:"availability-zone,omitempty"`
	// +optional
	ExcludeInterfaceTags map[string]string `json:"exclude-interface-tags,omitempty"`
	// +optional
	DeleteOnTermination *bool `json:"delete-on-termination,omitempty"`
	// +optional
	UsePrimaryAddress *bool `json:"use-primary-address,omitempty"`
	// +optional
	DisablePrefixDelegation *bool `json:"disable-prefix-delegation,omitempty"`
}

// ENIStatus is keyed by interface name.
type ENIStatus struct {
	// +optional
	ENIs map[string]ENI `json:"enis,omitempty"`
}

// ENI is one AWS network interface.
type ENI struct {
	// +optional
	ID string `json:"id,omitempty"`
	// +optional
	IP string `json:"ip,omitempty"`
	// +optional
	MAC string `json:"mac,omitempty"`
	// +optional
	AvailabilityZone string `json:"availability-zone,omitempty"`
	// +optional
	Description string `json:"description,omitempty"`
	// +optional
	Number int `json:"number,omitempty"`
	// +optional
	Subnet CloudSubnet `json:"subnet,omitzero"`
	// +optional
	VPC AWSVPC `json:"vpc,omitzero"`
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// +optional
	Prefixes []CIDR `json:"prefixes,omitempty"`
	// +optional
	IPv6Prefixes []CIDR `json:"ipv6-prefixes,omitempty"`
	// +optional
	SecurityGroups []string `json:"security-groups,omitempty"`
	// +optional
	Tags map[string]string `json:"tags,omitempty"`
	// +optional
	PublicIP string `json:"public-ip,omitempty"`
}

// CloudSubnet is a subnet of a provider.
type CloudSubnet struct {
	// +optional
	ID string `json:"id,omitempty"`
	// +optional
	CIDR CIDR `json:"cidr,omitempty"`
}

// AWSVPC is a virtual network of AWS.
type AWSVPC struct {
	// +optional
	ID string `json:"id,omitempty"`
	// +optional
	PrimaryCIDR CIDR `json:"primary-cidr,omitempty"`
	// +optional
	CIDRs []CIDR `json:"cidrs,omitempty"`
}

// AzureSpec is how addresses are taken from Azure network interfaces.
type AzureSpec struct {
	// +optional
	InterfaceName string `json:"interface-name,omitempty"`
}

// AzureStatus lists the network interfaces.
type AzureStatus struct {
	// +optional
	Interfaces []AzureInterface `json:"interfaces,omitempty"`
}

// AzureInterface is one Azure network interface.
type AzureInterface struct {
	// +optional
	ID string `json:"id,omitempty"`
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	MAC string `json:"mac,omitempty"`
	// +optional
	IP string `json:"ip,omitempty"`
	// +optional
	State string `json:"state,omitempty"`
	// +optional
	Addresses []AzureAddress `json:"addresses,omitempty"`
	// +optional
	SecurityGroup string `json:"security-group,omitempty"`
	// +optional
	Gateway string `json:"gateway,omitempty"`
	// +optional
	CIDR CIDR `json:"cidr,omitempty"`
	// +optional
	Subnet CloudSubnet `json:"subnet,omitzero"`
}

// AzureAddress is one address of an Azure network interface.
type AzureAddress struct {
	// +optional
	IP string `json:"ip,omitempty"`
	// +optional
	Subnet string `json:"subnet,omitempty"`
	// +optional
	State string `json:"state,omitempty"`
}

// AlibabaCloudSpec is how addresses are taken from Alibaba network interfaces.
type AlibabaCloudSpec struct {
	// +optional
	InstanceType string `json:"instance-type,omitempty"`
	// +optional
	AvailabilityZone string `json:"availability-zone,omitempty"`
	// +optional
	VPCID string `json:"vpc-id,omitempty"`
	// +optional
	CIDRBlock CIDR `json:"cidr-block,omitempty"`
	// +optional
	VSwitches []string `json:"vswitches,omitempty"`
	// +optional
	VSwitchTags map[string]string `json:"vswitch-tags,omitempty"`
	// +optional
	SecurityGroups []string `json:"security-groups,omitempty"`
	// +optional
	SecurityGroupTags map[string]string `json:"security-group-tags,omitempty"`
}

// AlibabaCloudStatus is keyed by interface name.
type AlibabaCloudStatus struct {
	// +optional
	ENIs map[string]AlibabaENI `json:"enis,omitempty"`
}

// AlibabaENI is one Alibaba network interface.
type AlibabaENI struct {
	// +optional
	NetworkInterfaceID string `json:"network-interface-id,omitempty"`
	// +optional
	MACAddress string `json:"mac-address,omitempty"`
	// +optional
	Type string `json:"type,omitempty"`
	// +optional
	InstanceID string `json:"instance-id,omitempty"`
	// +optional
	SecurityGroupIDs []string `json:"security-groupids,omitempty"`
	// +optional
	VPC AlibabaVPC `json:"vpc,omitzero"`
	// +optional
	ZoneID string `json:"zone-id,omitempty"`
	// +optional
	VSwitch AlibabaVSwitch `json:"vswitch,omitzero"`
	// +optional
	PrimaryIPAddress string `json:"primary-ip-address,omitempty"`
	// +optional
	PrivateIPSets []AlibabaIPSet `json:"private-ipsets,omitempty"`
	// +optional
	Tags map[string]string `json:"tags,omitempty"`
}

// AlibabaVPC is a virtual network of Alibaba.
type AlibabaVPC struct {
	// +optional
	VPCID string `json:"vpc-id,omitempty"`
	// +optional
	CIDRBlock CIDR `json:"cidr,omitempty"`
	// +optional
	IPv6CIDRBlock CIDR `json:"ipv6-cidr,omitempty"`
	// +optional
	SecondaryCIDRs []CIDR `json:"secondary-cidrs,omitempty"`
}

// AlibabaVSwitch is a subnet of Alibaba.
type AlibabaVSwitch struct {
	// +optional
	VSwitchID string `json:"vswitch-id,omitempty"`
	// +optional
	CIDRBlock CIDR `json:"cidr,omitempty"`
	// +optional
	IPv6CIDRBlock CIDR `json:"ipv6-cidr,omitempty"`
}

// AlibabaIPSet is one private address.
type AlibabaIPSet struct {
	// +optional
	Primary bool `json:"primary,omitempty"`
	// +optional
	PrivateIPAddress string `json:"private-ip-address,omitempty"`
}
