// SPDX-License-Identifier: Apache-2.0

package schematest

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// server judges objects as an API server with our definitions does.
type server struct {
	kinds map[string]*kind
}

type kind struct {
	definition *apiextensions.CustomResourceDefinition
	structural *schema.Structural
	schema     validation.SchemaValidator
	cel        *cel.Validator
}

func newServer(t *testing.T) *server {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	files, err := filepath.Glob("../../deploy/crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions: %v", err)
	}
	s := &server{kinds: map[string]*kind{}}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var external apiext.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(raw, &external); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		scheme.Default(&external)
		external.Status.StoredVersions = []string{"v2"} // the server sets it at creation
		k := &kind{definition: &apiextensions.CustomResourceDefinition{}}
		if err := scheme.Convert(&external, k.definition, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, problem := range crdvalidation.ValidateCustomResourceDefinition(t.Context(), k.definition) {
			t.Errorf("%s: %v", filepath.Base(name), problem)
		}
		if err := k.compile(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s.kinds[external.Spec.Names.Kind] = k
	}
	return s
}

func (k *kind) compile() error {
	props := k.definition.Spec.Versions[0].Schema
	if props == nil {
		props = k.definition.Spec.Validation
	}
	var err error
	if k.structural, err = schema.NewStructural(props.OpenAPIV3Schema); err != nil {
		return err
	}
	if k.schema, _, err = validation.NewSchemaValidator(props.OpenAPIV3Schema); err != nil {
		return err
	}
	k.cel = cel.NewValidator(k.structural, true, celconfig.PerCallLimit)
	return nil
}

// admit prunes, defaults and validates, and returns the object as it would be
// stored.
func (s *server) admit(t *testing.T, object map[string]any) (map[string]any, field.ErrorList) {
	t.Helper()
	name, _ := object["kind"].(string)
	k := s.kinds[name]
	if k == nil {
		t.Fatalf("no definition of kind %q", name)
	}
	object = runtime.DeepCopyJSON(object)
	pruning.Prune(object, k.structural, true)
	defaulting.Default(object, k.structural)
	problems := validation.ValidateCustomResource(nil, object, k.schema)
	if k.cel != nil {
		more, _ := k.cel.Validate(t.Context(), nil, k.structural, object, nil, celconfig.RuntimeCELCostBudget)
		problems = append(problems, more...)
	}
	return object, problems
}

// parse reads YAML as the API server reads JSON: whole numbers are integers.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(text), &object, func(d *yamlDecoder) *yamlDecoder { d.UseNumber(); return d }); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return integers(object).(map[string]any)
}
