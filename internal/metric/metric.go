// SPDX-License-Identifier: Apache-2.0

// Package metric keeps what a program measures: one set that Prometheus scrapes
// and commands list.
//
// What happens is counted as it happens (Counter, Histogram). What is there is
// read when somebody asks (Census).
package metric

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/stentor-net/stentor/api/rest"
)

// Set of metrics. It may be used by several goroutines.
type Set struct{ registry *prometheus.Registry }

// New makes a set that measures the process, and nothing else yet.
func New() *Set {
	s := &Set{prometheus.NewRegistry()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s
}

// Counter counts what happens, by its labels' values.
type Counter struct{ vec *prometheus.CounterVec }

// Counter adds a counter to the set; its name ends in _total.
func (s *Set) Counter(name, help string, labels ...string) *Counter {
	c := &Counter{prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)}
	s.registry.MustRegister(c.vec)
	return c
}

// Add adds n, which is not negative. Values are those of the labels, in their order.
func (c *Counter) Add(n float64, values ...string) { c.vec.WithLabelValues(values...).Add(n) }

// Inc adds one.
func (c *Counter) Inc(values ...string) { c.vec.WithLabelValues(values...).Inc() }

// Histogram counts observations by their size.
type Histogram struct{ vec *prometheus.HistogramVec }

// Histogram adds a histogram to the set. Buckets are upper bounds, ascending.
func (s *Set) Histogram(name, help string, buckets []float64, labels ...string) *Histogram {
	h := &Histogram{prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)}
	s.registry.MustRegister(h.vec)
	return h
}

// Observe counts one value.
func (h *Histogram) Observe(v float64, values ...string) { h.vec.WithLabelValues(values...).Observe(v) }

// Buckets are n upper bounds, each factor times the one before.
func Buckets(first, factor float64, n int) []float64 {
	return prometheus.ExponentialBuckets(first, factor, n)
}

// Desc describes a metric of a census.
type Desc struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// Gauge describes a value that goes up and down.
func Gauge(name, help string, labels ...string) *Desc {
	return &Desc{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// Count describes a value that somebody else counts; its name ends in _total.
func Count(name, help string, labels ...string) *Desc {
	return &Desc{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

// Tell puts one value out, with those of the labels in their order.
type Tell func(d *Desc, v float64, values ...string)

// Census adds metrics that read finds out when somebody asks. Read may be called
// by several goroutines at once. Its error fails the scrape, not what it told
// before.
func (s *Set) Census(descs []*Desc, read func(Tell) error) {
	s.registry.MustRegister(&census{descs, read})
}

type census struct {
	descs []*Desc
	read  func(Tell) error
}

func (c *census) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d.desc
	}
}

func (c *census) Collect(out chan<- prometheus.Metric) {
	err := c.read(func(d *Desc, v float64, values ...string) {
		out <- prometheus.MustNewConstMetric(d.desc, d.kind, v, values...)
	})
	if err != nil {
		out <- prometheus.NewInvalidMetric(c.descs[0].desc, err)
	}
}

// Handler answers Prometheus. What could be read is told even if something else
// could not.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// List is the whole set, flat: of a histogram or summary its count and its sum.
func (s *Set) List() ([]rest.Metric, error) {
	families, err := s.registry.Gather()
	out := []rest.Metric{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels map[string]string
			for _, l := range m.GetLabel() {
				if labels == nil {
					labels = map[string]string{}
				}
				labels[l.GetName()] = l.GetValue()
			}
			for suffix, v := range values(f.GetType(), m) {
				out = append(out, rest.Metric{Name: f.GetName() + suffix, Value: v, Labels: labels})
			}
		}
	}
	return out, err
}

func values(kind dto.MetricType, m *dto.Metric) map[string]float64 {
	switch kind {
	case dto.MetricType_COUNTER:
		return map[string]float64{"": m.GetCounter().GetValue()}
	case dto.MetricType_GAUGE:
		return map[string]float64{"": m.GetGauge().GetValue()}
	case dto.MetricType_HISTOGRAM:
		return map[string]float64{"_count": float64(m.GetHistogram().GetSampleCount()), "_sum": m.GetHistogram().GetSampleSum()}
	case dto.MetricType_SUMMARY:
		return map[string]float64{"_count": float64(m.GetSummary().GetSampleCount()), "_sum": m.GetSummary().GetSampleSum()}
	}
	return map[string]float64{"": m.GetUntyped().GetValue()}
}
