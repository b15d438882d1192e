// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/internal/cli/connectivity/probe"
)

// external is a target outside of the cluster: pinged, or with a port connected to.
type external struct {
	host string // address or name
	port uint16
}

func (e external) String() string {
	if e.port == 0 {
		return e.host
	}
	return net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

// parseExternal reads ADDRESS, NAME, ADDRESS:PORT, [ADDRESS]:PORT or NAME:PORT.
func parseExternal(text string) (external, error) {
	if ip, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return external{host: ip.String()}, nil
	}
	if !strings.Contains(text, ":") && text != "" {
		return external{host: text}, nil
	}
	host, port, err := net.SplitHostPort(text)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" {
		return external{}, fmt.Errorf("%q is not an address, a name, or one of them with :PORT", text)
	}
	return external{host: host, port: uint16(n)}, nil
}

// reachable keeps the targets that the client's node reaches: for the others the
// pod network is not to blame.
func (t *trial) reachable(ctx context.Context) (out []external) {
	for i, x := range t.toOutside(hostNear) {
		a, err := x.from.Ask(ctx, x.req)
		switch {
		case err != nil:
			t.say("%s is left out: %v", x.to, err)
		case a.Outcome != probe.OK:
			t.say("%s is left out: node %s does not reach it either: %s: %s", x.to, t.near, a.Outcome, a.Error)
		case !t.hasFamily(x.req.Host):
			t.say("%s is left out: pods have no address of its family", x.to)
		default:
			out = append(out, t.external[i])
		}
	}
	return out
}

func (t *trial) hasFamily(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return true
	}
	_, ok := t.pods[visitor].ip(familyOf(ip))
	return ok
}
