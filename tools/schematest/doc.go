// SPDX-License-Identifier: Apache-2.0

// Package schematest checks the generated CustomResourceDefinitions with the
// validation code of a Kubernetes API server.
package schematest
