// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	_ "embed"
	"encoding/json"
	"strings"

	"github.com/stentor-net/stentor/lab/internal/image"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// OutsideName is the name of the outside host in the cluster's DNS.
const OutsideName = "outside.test"

//go:embed coredns.yaml
var corednsYAML string

// corednsManifests are the cluster's DNS: it reaches the API server by the
// fabric's address, so that it works before services do.
func corednsManifests(p *plan.Plan) string {
	var ips, families []string
	for _, a := range p.DNS {
		ips = append(ips, a.String())
		if a.Is4() {
			families = append(families, "IPv4")
		} else {
			families = append(families, "IPv6")
		}
	}
	policy := "SingleStack"
	if len(ips) > 1 {
		policy = "RequireDualStack"
	}
	var outside []string
	for _, a := range p.Outside {
		outside = append(outside, a.Addr().String()+" "+OutsideName)
	}
	list := func(s []string) string { b, _ := json.Marshal(s); return string(b) }
	return strings.NewReplacer(
		"$HOSTS", strings.Join(outside, "\n        "),
		"$IMAGE", image.CoreDNS,
		"$API_HOST", p.APIHost().String(),
		"$CLUSTER_IPS", list(ips), "$CLUSTER_IP", ips[0],
		"$FAMILIES", list(families), "$POLICY", policy,
	).Replace(corednsYAML)
}
