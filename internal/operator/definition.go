// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/stentor-net/stentor/deploy/crds"
	"github.com/stentor-net/stentor/internal/k8s"
)

// installDefinitions makes all our kinds known to the API server, and returns
// when their objects can be stored. It tries until ctx ends.
func (op *operator) installDefinitions(ctx context.Context) error {
	missing := map[string]*k8s.Definition{}
	for name, text := range crds.All() {
		want := &k8s.Definition{}
		if err := yaml.Unmarshal(text, want); err != nil {
			return fmt.Errorf("definition %s: %w", name, err) // ours is wrong: no use in trying again
		}
		missing[name] = want
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		for _, name := range slices.Sorted(maps.Keys(missing)) {
			established, err := op.installDefinition(ctx, missing[name])
			if err != nil && ctx.Err() == nil {
				op.Log.Warn("definition not installed", "name", missing[name].Name, "error", err)
			}
			if established {
				delete(missing, name)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// installDefinition creates or upgrades one definition, and says whether the
// API server has taken it up.
func (op *operator) installDefinition(ctx context.Context, want *k8s.Definition) (established bool, err error) {
	have, err := k8s.Definitions.Get(ctx, op.client, "", want.Name)
	if apierrors.IsNotFound(err) {
		have, err = k8s.Definitions.Create(ctx, op.client, want)
		if err != nil {
			return false, err
		}
		op.Log.Info("definition created", "name", want.Name, "version", crds.SchemaVersion)
		return have.Established(), nil
	}
	if err != nil {
		return false, err
	}
	if older(have.Labels[crds.SchemaVersionLabel], crds.SchemaVersion) {
		// Our keys of spec.names, spec.versions and so on replace theirs;
		// whatever the server added stays.
		_, err = k8s.Definitions.Patch(ctx, op.client, "", want.Name, "", types.MergePatchType, map[string]any{
			"metadata": map[string]any{"labels": want.Labels, "resourceVersion": have.ResourceVersion},
			"spec":     json.RawMessage(want.Spec),
		})
		if err != nil {
			return false, err
		}
		op.Log.Info("definition upgraded", "name", want.Name, "from", have.Labels[crds.SchemaVersionLabel], "version", crds.SchemaVersion)
	}
	return have.Established(), nil
}

// older compares versions such as 1.31.2 by number. What is no version is
// older than any.
func older(a, b string) bool {
	x, okX := numbers(a)
	y, okY := numbers(b)
	if !okX || !okY {
		return !okX && okY
	}
	return slices.Compare(x, y) < 0
}

func numbers(version string) ([]int, bool) {
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}
