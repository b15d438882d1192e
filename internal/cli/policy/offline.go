// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"

	"github.com/stentor-net/stentor/api/rest"
	tracing "github.com/stentor-net/stentor/internal/policy/trace"
)

// offline judges by what the files hold.
func offline(cluster string, files []file, q rest.TraceRequest) (rest.TraceResult, error) {
	all, err := readManifests(files)
	if err != nil {
		return rest.TraceResult{}, err
	}
	w, fits, err := tracing.FromManifest(cluster, all)
	if err != nil {
		return rest.TraceResult{}, err
	}
	out, err := w.Trace(q)
	out.Objects = fits
	return out, err
}

// readManifests reads all files as one.
func readManifests(files []file) (tracing.Manifest, error) {
	var all tracing.Manifest
	for _, f := range files {
		m, err := tracing.ReadManifest([]byte(f.text))
		if err != nil {
			return all, fmt.Errorf("%s: %w", f.name, err)
		}
		all.Policies = append(all.Policies, m.Policies...)
		all.Texts = append(all.Texts, m.Texts...)
		all.Pods = append(all.Pods, m.Pods...)
		all.Namespaces = append(all.Namespaces, m.Namespaces...)
		all.Others = append(all.Others, m.Others...)
	}
	return all, nil
}
