// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdmarkers "sigs.k8s.io/controller-tools/pkg/crd/markers"
	"sigs.k8s.io/controller-tools/pkg/markers"
)

// oneOf demands exactly one of the named members. Unlike a CEL rule it costs
// nothing in the API server's budget, so it may stand in lists without limit.
type oneOf []string

// anyOf demands at least one of the named members.
type anyOf []string

func (m oneOf) ApplyToSchema(_ *crdmarkers.SchemaContext, schema *apiext.JSONSchemaProps) error {
	alternatives, err := required(schema, m)
	schema.OneOf = alternatives
	return err
}

func (m anyOf) ApplyToSchema(_ *crdmarkers.SchemaContext, schema *apiext.JSONSchemaProps) error {
	alternatives, err := required(schema, m)
	schema.AnyOf = alternatives
	return err
}

func required(schema *apiext.JSONSchemaProps, names []string) ([]apiext.JSONSchemaProps, error) {
	var out []apiext.JSONSchemaProps
	for _, name := range names {
		if _, ok := schema.Properties[name]; !ok {
			return nil, fmt.Errorf("no member %q", name)
		}
		out = append(out, apiext.JSONSchemaProps{
			Properties: map[string]apiext.JSONSchemaProps{name: {}},
			Required:   []string{name},
		})
	}
	return out, nil
}

// registerMarkers makes the markers of this file known.
func registerMarkers(into *markers.Registry) error {
	for name, marker := range map[string]any{
		"stentor:oneOf": oneOf(nil),
		"stentor:anyOf": anyOf(nil),
	} {
		definition, err := markers.MakeDefinition(name, markers.DescribesType, marker)
		if err != nil {
			return err
		}
		if err := into.Register(definition); err != nil {
			return err
		}
	}
	return nil
}
