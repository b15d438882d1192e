// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/stentor-net/stentor/lab/internal/kubeapi"
	"github.com/stentor-net/stentor/lab/internal/probe"
)

// request is one that a ship makes, and what comes of it under RuleHTTP.
type request struct {
	ship, method, path string
	want, got          string
}

const refused = "403 Access denied" // by the proxy

// requests puts RuleHTTP in the place of rule1, and makes requests until they
// are answered as they must be, or until there is no hope.
func (d *demo) requests(ctx context.Context) ([]request, error) {
	list := []request{
		{ship: "tiefighter", method: "POST", path: "/v1/request-landing", want: landed},
		{ship: "tiefighter", method: "PUT", path: "/v1/exhaust-port", want: refused},
		{ship: "tiefighter-2", method: "POST", path: "/v1/request-landing", want: landed},
		{ship: "tiefighter-2", method: "PUT", path: "/v1/exhaust-port", want: refused},
		{ship: "xwing", method: "POST", path: "/v1/request-landing", want: dropped},
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	if err := d.kube.Apply(ctx, RuleHTTP); err != nil {
		return nil, err
	}
	err := kubeapi.Wait(ctx, "requests to be judged", func(ctx context.Context) (bool, error) {
		right := true
		for i := range list {
			r := &list[i]
			results, err := d.probe(ctx, r.ship, fmt.Sprintf("http://deathstar.%s.svc.cluster.local%s#method=%s", namespace, r.path, r.method))
			if err != nil {
				return false, err
			}
			r.got = answer(results[0])
			right = right && r.got == r.want
		}
		return right, nil
	})
	if list[len(list)-1].got == "" {
		return nil, err
	}
	return list, nil
}

// answer puts what came of a request into words.
func answer(r probe.Result) string {
	if r.Outcome == probe.Status {
		return strings.TrimSpace(fmt.Sprintf("%d %s", r.Status, r.Body))
	}
	return said(r)
}

// printRequests says whether all of them went as they must.
func (d *demo) printRequests(list []request) bool {
	fmt.Fprintf(d.Print, "\nrule1 now names a request: POST /v1/request-landing\n\n%s\n",
		d.paint(bold, fmt.Sprintf("%-*s%-32s%-22s%s", wFrom, "FROM", "REQUEST", "ANSWER", "EXPECTED")))
	all := true
	for _, r := range list {
		mark, colour := "ok", green
		if r.got != r.want {
			mark, colour, all = "DIFFERS", red, false
		}
		fmt.Fprintf(d.Print, "%-*s%-32s%s%-22s%s\n", wFrom, r.ship, r.method+" "+r.path, d.paint(colour, fmt.Sprintf("%-22s", r.got)), r.want, d.paint(colour, mark))
	}
	return all
}
