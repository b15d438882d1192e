// SPDX-License-Identifier: Apache-2.0

package metric_test

import (
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/metric"
	"github.com/stentor-net/stentor/internal/metric/metrictest"
)

func scrape(t *testing.T, s *metric.Set) (status int, text []byte) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Code, w.Body.Bytes()
}

func TestScrapeAndListAgree(t *testing.T) {
	s := metric.New()
	calls := s.Counter("x_calls_total", "Calls.", "code")
	calls.Inc("200")
	calls.Inc("200")
	calls.Inc("500")
	h := s.Histogram("x_wait_seconds", "Time.", metric.Buckets(1, 2, 3), "kind")
	h.Observe(1.5, "a")
	h.Observe(100, "a")
	rows := metric.Gauge("x_rows", "Rows.", "table")
	var fail error
	s.Census([]*metric.Desc{rows}, func(tell metric.Tell) error {
		tell(rows, 7, "pods")
		return fail
	})
	status, text := scrape(t, s)
	families := metrictest.Families(t, text)
	if status != 200 || len(families["x_calls_total"].GetMetric()) != 2 || families["x_rows"].GetMetric()[0].GetGauge().GetValue() != 7 ||
		families["x_wait_seconds"].GetMetric()[0].GetHistogram().GetSampleCount() != 2 || families["process_resident_memory_bytes"] == nil {
		t.Errorf("%d\n%s", status, text)
	}
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		name, key, label string
		value            float64
	}{
		{"x_calls_total", "code", "200", 2}, {"x_calls_total", "code", "500", 1}, {"x_rows", "table", "pods", 7},
		{"x_wait_seconds_count", "kind", "a", 2}, {"x_wait_seconds_sum", "kind", "a", 101.5},
	} {
		if got := find(list, want.name, want.key, want.label); got == nil || got.Value != want.value {
			t.Errorf("%s: got %+v, want %v", want.name, got, want.value)
		}
	}

	// What cannot be read does not take the rest away.
	fail = errors.New("no kernel")
	status, text = scrape(t, s)
	if families := metrictest.Families(t, text); status != 200 || families["x_rows"] == nil || families["x_calls_total"] == nil {
		t.Errorf("%d\n%s", status, text)
	}
	if list, err := s.List(); err == nil || find(list, "x_rows", "table", "pods") == nil {
		t.Errorf("got %v, %v", list, err)
	}
}

func find(list []rest.Metric, name, key, label string) *rest.Metric {
	for _, m := range list {
		if m.Name == name && m.Labels[key] == label {
			return &m
		}
	}
	return nil
}
