// SPDX-License-Identifier: Apache-2.0

// Package bench is what measurements have in common: rows with bars, intervals, one table.
package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Row is one line of the table: what was measured, and what it must not exceed.
type Row struct {
	Part  string  `json:"part"` // the group it belongs to; the driver fills it in
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Low   float64 `json:"low"` // 95 % interval of the value
	High  float64 `json:"high"`
	Unit  string  `json:"unit"`
	Bar   float64 `json:"bar,omitempty"` // the most it may be, in the same unit; 0: shown, not judged
	How   string  `json:"how,omitempty"` // in a few words
	// Curve and At make the row a point of a curve: what it shows, and where on
	// its axis the point is. Name is then the line that it belongs to.
	Curve string `json:"curve,omitempty"`
	At    int    `json:"at,omitempty"`
	// Failed says why there is no value: the part that measures ended early.
	Failed string `json:"failed,omitempty"`
	// Samples that the value comes from, in the order of the rounds.
	Samples []float64 `json:"samples,omitempty"`
}

// Verdict is what a row says about its bar.
type Verdict string

const (
	Shown  Verdict = ""       // no bar
	Met    Verdict = "met"    // the value is within the bar
	Open   Verdict = "open"   // the value is beyond the bar, but the interval is not
	Missed Verdict = "MISSED" // the whole interval is beyond the bar
	Failed Verdict = "FAILED" // not measured
)

// Verdict compares the row with its bar.
func (r Row) Verdict() Verdict {
	switch {
	case r.Failed != "":
		return Failed
	case r.Bar == 0:
		return Shown
	case r.Value <= r.Bar:
		return Met
	case r.Low <= r.Bar:
		return Open
	}
	return Missed
}

// Below gives the row its bar.
func (r Row) Below(bar float64) Row {
	r.Bar = bar
	return r
}

// By says how it was measured.
func (r Row) By(format string, args ...any) Row {
	r.How = fmt.Sprintf(format, args...)
	return r
}

// Median is the row of the middle sample.
func Median(name, unit string, samples []float64) Row { return Quantile(name, unit, 0.5, samples) }

// Quantile is the row of the sample that a share q of all is not above, with
// the interval that order statistics give without any assumption about the
// distribution.
func Quantile(name, unit string, q float64, samples []float64) Row {
	r := Row{Name: name, Unit: unit, Samples: samples}
	if len(samples) == 0 {
		r.Value, r.Low, r.High = math.Inf(1), math.Inf(1), math.Inf(1) // nothing measured meets no bar
		return r
	}
	sorted := slices.Clone(samples)
	slices.Sort(sorted)
	r.Value = at(sorted, q)
	low, high := ranks(len(sorted), q)
	r.Low, r.High = sorted[low], sorted[high]
	return r
}

// Ratio is the row of ours over theirs, measured in turns: the median of the
// ratios of the rounds.
func Ratio(name string, ours, theirs []float64) Row {
	var ratios []float64
	for i := range min(len(ours), len(theirs)) {
		ratios = append(ratios, ours[i]/theirs[i])
	}
	return Median(name, "x", ratios)
}

// Unmeasured is the row that stands where a part ended early.
func Unmeasured(name string, err error) Row {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return Row{Name: name, Failed: first}
}

// Single is the row of something that is counted rather than sampled.
func Single(name, unit string, value float64) Row {
	return Row{Name: name, Unit: unit, Value: value, Low: value, High: value}
}

// at is the quantile of sorted samples; the median of an even number is between
// the two in the middle.
func at(sorted []float64, q float64) float64 {
	pos := q * float64(len(sorted)-1)
	below := int(pos)
	if below+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	part := pos - float64(below)
	return sorted[below]*(1-part) + sorted[below+1]*part
}

// ranks are the samples between which the quantile of the distribution lies
// with a probability of at least 95 %, if there are enough of them; otherwise
// the first and the last.
func ranks(n int, q float64) (low, high int) {
	// The number of samples below the quantile is binomial (n, q).
	const tail = 0.025
	low, high = 0, n-1
	sum := 0.0
	for k := range n + 1 {
		p := choose(n, k) * math.Pow(q, float64(k)) * math.Pow(1-q, float64(n-k))
		if sum+p <= tail {
			low = min(k, n-1)
		}
		if sum < 1-tail && sum+p >= 1-tail {
			high = min(k, n-1)
		}
		sum += p
	}
	return low, high
}

func choose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return math.Exp(a - b - c)
}
