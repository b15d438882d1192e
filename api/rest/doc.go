// SPDX-License-Identifier: Apache-2.0

// Package rest holds the objects that the agent's socket speaks in JSON.
//
// Paths and field names are those that existing clients of such agents know.
// Added by this project: the section "stentor" of StatusResponse, and the paths
// below /v1/db, /v1/bpf, /v1/monitor, /v1/cni (see paths.go).
package rest

// Error is the body of an answer with a status of 400 or more: a JSON string.
type Error string

// Labels are written source:key=value, sorted.
type Labels []string

// ConfigurationMap holds options by their key.
type ConfigurationMap map[string]string
