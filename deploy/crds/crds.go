// SPDX-License-Identifier: Apache-2.0

//go:generate go run -C ../../tools ./crdgen .. ./api/cilium/v2 2.2.0 deploy/crds deploy/chart/crds

// Package crds embeds the generated CustomResourceDefinitions.
package crds

import (
	"embed"
	"io/fs"
)

// SchemaVersion is the value of SchemaVersionLabel on every definition. It
// grows with every change of a schema, here and in the line above; the operator
// replaces older ones.
const SchemaVersion = "2.2.0"

// SchemaVersionLabel carries the version of the schema of a definition.
const SchemaVersionLabel = "io.cilium.k8s.crd.schema.version"

//go:embed *.yaml
var files embed.FS

// All returns the YAML text of every definition, by file name.
func All() map[string][]byte {
	out := map[string][]byte{}
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err) // the file is part of the program
		}
		out[name] = text
	}
	return out
}
