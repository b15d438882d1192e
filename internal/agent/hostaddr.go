// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/stentor-net/stentor/internal/table"
)

// hostAddressesEvery is how often the addresses of the node are read again.
const hostAddressesEvery = 30 * time.Second

func newHostAddressTable() (*table.Table[netip.Addr], *table.Writer[netip.Addr]) {
	return table.New(table.Options[netip.Addr]{
		Name:    "hostaddresses",
		Key:     netip.Addr.String,
		Columns: []table.Column[netip.Addr]{{Name: "ADDRESS", Value: netip.Addr.String}},
	})
}

// hostAddresses reflects the addresses of this node's own interfaces. What comes
// from them is the host, whatever Kubernetes calls it.
type hostAddresses struct {
	writer *table.Writer[netip.Addr]
	read   func() ([]netip.Addr, error) // default interfaceAddresses
}

func (h *hostAddresses) Run(ctx context.Context) error {
	if h.read == nil {
		h.read = interfaceAddresses
	}
	for {
		list, err := h.read()
		if err != nil {
			return fmt.Errorf("read addresses of the node: %w", err)
		}
		h.writer.Replace(list, func(a, b netip.Addr) bool { return a == b })
		h.writer.MarkSynced()
		if err := pause(ctx, hostAddressesEvery); err != nil {
			return err
		}
	}
}

// interfaceAddresses leaves out loopback and link-local addresses: no packet of
// another machine or pod carries them.
func interfaceAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if ip := p.Addr().Unmap(); ip.IsGlobalUnicast() {
			out = append(out, ip)
		}
	}
	return out, nil
}
