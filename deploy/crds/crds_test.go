// SPDX-License-Identifier: Apache-2.0

package crds

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"
)

// definition is what this test reads of one.
type definition struct {
	Metadata struct{ Labels map[string]string }
	Spec     struct {
		Names    struct{ Kind string }
		Versions []struct {
			AdditionalPrinterColumns []struct {
				Name, JSONPath string
				Priority       int
			}
		}
	}
}

func definitions(t *testing.T) map[string]definition {
	t.Helper()
	out := map[string]definition{}
	for name, text := range All() {
		var d definition
		if err := yaml.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[d.Spec.Names.Kind] = d
	}
	return out
}

func TestEveryDefinitionCarriesTheSchemaVersion(t *testing.T) {
	all := definitions(t)
	if len(all) != 8 {
		t.Errorf("%d kinds", len(all))
	}
	for kind, d := range all {
		if got := d.Metadata.Labels[SchemaVersionLabel]; got != SchemaVersion {
			t.Errorf("%s has version %q: is the go:generate line of another version than SchemaVersion?", kind, got)
		}
	}
}

func TestKubectlPrintsTheKnownColumns(t *testing.T) {
	all := definitions(t)
	for kind, want := range map[string]string{
		"CiliumEndpoint": "[{Endpoint ID .status.id 0} {Identity ID .status.identity.id 0} " +
			"{Ingress Enforcement .status.policy.ingress.state 0} {Egress Enforcement .status.policy.egress.state 0} " +
			"{Visibility Policy .status.visibility-policy-status 0} {Endpoint State .status.state 0} " +
			"{IPv4 .status.networking.addressing[0].ipv4 0} {IPv6 .status.networking.addressing[0].ipv6 0}]",
		"CiliumIdentity": `[{Namespace .metadata.labels.io\.kubernetes\.pod\.namespace 0} {Age .metadata.creationTimestamp 0}]`,
		"CiliumNode": `[{CiliumInternalIP .spec.addresses[?(@.type=="CiliumInternalIP")].ip 1} ` +
			`{InternalIP .spec.addresses[?(@.type=="InternalIP")].ip 1} {Age .metadata.creationTimestamp 0}]`,
		"CiliumNetworkPolicy":            "[{Age .metadata.creationTimestamp 0} {Valid .status.conditions[?(@.type=='Valid')].status 0}]",
		"CiliumClusterwideNetworkPolicy": "[{Valid .status.conditions[?(@.type=='Valid')].status 0}]",
	} {
		if got := fmt.Sprint(all[kind].Spec.Versions[0].AdditionalPrinterColumns); got != want {
			t.Errorf("%s:\nwant %s\n got %s", kind, want, got)
		}
	}
}

func TestTheChartHasTheSameDefinitions(t *testing.T) {
	for name, want := range All() {
		got, err := os.ReadFile(filepath.Join("..", "chart", "crds", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("deploy/chart/crds/%s differs, run make generate (%v)", name, err)
		}
	}
}
