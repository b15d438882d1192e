// SPDX-License-Identifier: Apache-2.0

package demo

import _ "embed"

// Empire holds the pods and the service of the demo, for nodes node1 and node2.
//
//go:embed empire.yaml
var Empire string

// Rule1 lets ships of the empire reach port 80 of the Death Star, and nobody else.
//
//go:embed rule1.yaml
var Rule1 string

// RuleHTTP is Rule1 for one request only.
//
//go:embed rule1-http.yaml
var RuleHTTP string
