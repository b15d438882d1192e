// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"embed"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

//go:embed manifests
var manifests embed.FS

// object is a manifest with its place in the API.
type object struct {
	list string // path of its kind
	name string
	json []byte
}

func (o object) path() string { return o.list + "/" + o.name }

// lists are the paths of kinds; %s is the namespace.
var lists = map[string]string{
	"Namespace":           "/api/v1/namespaces",
	"Pod":                 "/api/v1/namespaces/%s/pods",
	"Service":             "/api/v1/namespaces/%s/services",
	"NetworkPolicy":       "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies",
	"CiliumNetworkPolicy": "/apis/cilium.io/v2/namespaces/%s/ciliumnetworkpolicies",
}

// values of a manifest's variables, which are written ${NAME}.
type values map[string]any

// render fills in the manifest of that name. It is no text/template: that would
// keep the linker from leaving out methods that nobody calls, megabytes of them.
func render(name string, v values) (object, error) {
	text, err := manifests.ReadFile("manifests/" + name + ".yaml")
	if err != nil {
		return object{}, err
	}
	var missing []string
	filled := os.Expand(string(text), func(key string) string {
		value, ok := v[key]
		if !ok {
			missing = append(missing, key)
		}
		return fmt.Sprint(value)
	})
	if len(missing) > 0 {
		return object{}, fmt.Errorf("manifest %s: no value for %v", name, missing)
	}
	var head struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
	}
	if err := yaml.Unmarshal([]byte(filled), &head); err != nil {
		return object{}, fmt.Errorf("manifest %s: %w", name, err)
	}
	content, err := yaml.YAMLToJSON([]byte(filled))
	if err != nil {
		return object{}, fmt.Errorf("manifest %s: %w", name, err)
	}
	list, ok := lists[head.Kind]
	if !ok {
		return object{}, fmt.Errorf("manifest %s: nobody told the path of kind %s", name, head.Kind)
	}
	if head.Metadata.Namespace != "" {
		list = fmt.Sprintf(list, head.Metadata.Namespace)
	}
	return object{list: list, name: head.Metadata.Name, json: content}, nil
}
