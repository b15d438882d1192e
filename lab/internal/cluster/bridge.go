// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stentor-net/stentor/lab/internal/fabric"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// The bridge pod network is the plain one to compare with: the standard
// bridge plugin on each node, a route to every other node's pods, and
// masquerading of what leaves for anything but a pod.

// setUpBridge makes it, once the nodes' pod CIDRs are known.
func setUpBridge(p *plan.Plan, podCIDRs map[string][]netip.Prefix) error {
	for _, n := range p.Nodes {
		for _, m := range p.Nodes {
			if m.Name == n.Name {
				continue
			}
			for _, cidr := range podCIDRs[m.Name] {
				via, ok := sameFamily(m.Addrs, cidr.Addr())
				if !ok {
					continue
				}
				if err := fabric.Route(n.NetNS, cidr, via); err != nil {
					return err
				}
			}
		}
		if err := masquerade(p, n); err != nil {
			return err
		}
		conf, err := bridgeConflist(podCIDRs[n.Name])
		if err != nil {
			return err
		}
		// Last, and at once: it is what makes the node Ready.
		dir := p.Path("nodes", n.Name, "etc/cni/net.d")
		tmp := filepath.Join(dir, ".10-bridge")
		if err := os.WriteFile(tmp, conf, 0o644); err != nil {
			return err
		}
		if err := os.Rename(tmp, filepath.Join(dir, "10-bridge.conflist")); err != nil {
			return err
		}
	}
	return nil
}

func sameFamily(addrs []netip.Prefix, like netip.Addr) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Addr().Is4() == like.Is4() {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

type object = map[string]any

func bridgeConflist(cidrs []netip.Prefix) ([]byte, error) {
	var ranges [][]object
	var routes []object
	for _, c := range cidrs {
		ranges = append(ranges, []object{{"subnet": c.String()}})
		dst := "0.0.0.0/0"
		if c.Addr().Is6() {
			dst = "::/0"
		}
		routes = append(routes, object{"dst": dst})
	}
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "podnet",
		"plugins": []object{
			{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
				"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": "/run/cni-ipam"},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
}

// masqueradeRules let what leaves the pods' networks carry the node's address.
func masqueradeRules(pods []netip.Prefix) string {
	b := &strings.Builder{}
	b.WriteString("table inet stentor-lab {\n  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n")
	for _, c := range pods {
		family := "ip"
		if c.Addr().Is6() {
			family = "ip6"
		}
		fmt.Fprintf(b, "    %s saddr %s %s daddr != %s masquerade\n", family, c, family, c)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

func masquerade(p *plan.Plan, n plan.Node) error {
	var out bytes.Buffer
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader("table inet stentor-lab\ndelete table inet stentor-lab\n" + masqueradeRules(p.PodCIDRs))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := fabric.In(n.NetNS, cmd.Run); err != nil {
		return fmt.Errorf("masquerading on %s: %w: %s", n.Name, err, strings.TrimSpace(out.String()))
	}
	return nil
}
