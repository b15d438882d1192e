// SPDX-License-Identifier: Apache-2.0

package k8stest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// mergePatch changes an object as RFC 7396 says. A strategic merge is taken
// for the same: lists replace lists.
func mergePatch(object, patch Object) {
	for k, v := range patch {
		member, isObject := v.(Object)
		switch old, _ := object[k].(Object); {
		case v == nil:
			delete(object, k)
		case isObject && old != nil:
			mergePatch(old, member)
		default:
			object[k] = v
		}
	}
}

// jsonPatch changes an object as RFC 6902 says: add, replace, remove and test
// of members of objects.
func jsonPatch(object Object, body []byte) error {
	var steps []struct {
		Op, Path string
		Value    any
	}
	if err := json.Unmarshal(body, &steps); err != nil {
		return err
	}
	for _, step := range steps {
		names := strings.Split(strings.TrimPrefix(step.Path, "/"), "/")
		parent := object
		for _, name := range names[:len(names)-1] {
			next, ok := parent[unescape(name)].(Object)
			if !ok {
				return fmt.Errorf("no member %s", step.Path)
			}
			parent = next
		}
		last := unescape(names[len(names)-1])
		_, exists := parent[last]
		switch {
		case step.Op == "test" && !reflect.DeepEqual(parent[last], step.Value):
			return fmt.Errorf("test of %s: %v is not %v", step.Path, parent[last], step.Value)
		case step.Op == "test":
		case step.Op == "add", step.Op == "replace" && exists:
			parent[last] = step.Value
		case step.Op == "remove" && exists:
			delete(parent, last)
		default:
			return fmt.Errorf("cannot %s %s", step.Op, step.Path)
		}
	}
	return nil
}

func unescape(name string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
}
