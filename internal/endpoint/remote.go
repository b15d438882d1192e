// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"net/netip"

	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/table"
)

// Remote is an endpoint as its node published it, in a CiliumEndpoint: a row of
// the raw table `ciliumendpoints`. Those of this node are among them.
type Remote struct {
	Namespace, Name string
	PodUID          string     // of the pod that owns it, "" if none does
	NodeIP          netip.Addr // of the node that has it
	Identity        identity.ID
	IPs             []netip.Addr
	Ports           []Port // named ports
	State           State
}

// Key is namespace/name.
func (r Remote) Key() string { return r.Namespace + "/" + r.Name }

// NewRemoteTable makes the raw table `ciliumendpoints`. Index "ip": address.
func NewRemoteTable() (*table.Table[Remote], *table.Writer[Remote]) {
	return table.New(table.Options[Remote]{
		Name: "ciliumendpoints",
		Key:  Remote.Key,
		Indexes: map[string]func(Remote) []string{"ip": func(r Remote) []string {
			var out []string
			for _, a := range r.IPs {
				out = append(out, a.String())
			}
			return out
		}},
		Columns: []table.Column[Remote]{
			{Name: "POD", Value: Remote.Key},
			{Name: "IDENTITY", Value: func(r Remote) string { return r.Identity.String() }},
			{Name: "NODE", Value: func(r Remote) string { return addr(r.NodeIP) }},
			{Name: "STATE", Value: func(r Remote) string { return string(r.State) }},
			{Name: "IPS", Value: func(r Remote) string {
				text := ""
				for i, a := range r.IPs {
					if i > 0 {
						text += ","
					}
					text += a.String()
				}
				return text
			}},
		},
	})
}
