// SPDX-License-Identifier: Apache-2.0

// Package metrictest checks what a scrape gets.
package metrictest

import (
	"bytes"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Families parses the text of a scrape and returns its families by name. What
// does not parse, or breaks a rule of Prometheus for good names, fails the test;
// the exceptions are names that others gave long ago.
func Families(t testing.TB, text []byte, exceptions ...string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("parse the scrape: %v", err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		t.Fatalf("check the scrape: %v", err)
	}
	known := map[string]bool{}
	for _, e := range exceptions {
		known[e] = true
	}
	for _, p := range problems {
		if !known[p.Metric] {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	return families
}
