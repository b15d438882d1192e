// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

func TestARowMissesItsBarOnlyWithItsWholeInterval(t *testing.T) {
	for _, x := range []struct {
		value, low, high, bar float64
		want                  Verdict
	}{
		{1.0, 0.9, 1.2, 0, Shown},
		{1.0, 0.9, 1.2, 1.1, Met},
		{1.1, 0.9, 1.2, 1.1, Met},
		{1.2, 1.1, 1.3, 1.1, Open},
		{1.2, 1.11, 1.3, 1.1, Missed},
	} {
		if got := (Row{Value: x.value, Low: x.low, High: x.high, Bar: x.bar}).Verdict(); got != x.want {
			t.Errorf("%+v: %q", x, got)
		}
	}
	if got := Median("nothing", "ns", nil).Below(5).Verdict(); got != Missed {
		t.Errorf("nothing measured: %q, want %q", got, Missed)
	}
}

func TestTheIntervalOfNineRoundsLeavesOutTheOutermost(t *testing.T) {
	r := Median("x", "ns", []float64{9, 1, 8, 2, 7, 3, 6, 4, 5})
	if r.Value != 5 || r.Low != 2 || r.High != 8 {
		t.Errorf("median %v, interval %v to %v; want 5, 2 to 8", r.Value, r.Low, r.High)
	}
	if r := Median("x", "ns", []float64{3, 1}); r.Value != 2 || r.Low != 1 || r.High != 3 {
		t.Errorf("of two: %+v", r)
	}
}

// TestTheIntervalHoldsTheQuantile draws samples whose quantiles are known.
func TestTheIntervalHoldsTheQuantile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, x := range []struct {
		n int
		q float64
	}{{9, 0.5}, {15, 0.5}, {100, 0.5}, {400, 0.99}} {
		const tries = 4000
		inside := 0
		for range tries {
			samples := make([]float64, x.n)
			for i := range samples {
				samples[i] = random.Float64()
			}
			if r := Quantile("x", "", x.q, samples); r.Low <= x.q && x.q <= r.High {
				inside++
			}
		}
		if share := float64(inside) / tries; share < 0.94 || share > 0.985 {
			t.Errorf("%d samples, quantile %v: the interval holds it in %.1f %%, want about 95 %%", x.n, x.q, 100*share)
		}
	}
}

func TestARatioIsThatOfRounds(t *testing.T) {
	// The machine gets slower meanwhile; the ratio does not.
	if r := Ratio("x", []float64{2, 4, 8}, []float64{1, 2, 4}); r.Value != 2 || r.Low != 2 || r.High != 2 {
		t.Errorf("%+v", r)
	}
}

func TestRowsSurviveTheirFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rows")
	t.Setenv(FileEnv, file)
	Report(t, Single("one", "ns", 1).Below(2).By("by hand"), Median("two", "x", []float64{1, 2, 3}))
	Report(t, Single("three", "MiB", 3))
	rows, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 || rows[0].How != "by hand" || rows[0].Verdict() != Met || len(rows[1].Samples) != 3 || rows[2].Name != "three" {
		t.Errorf("%+v", rows)
	}
}

func TestTheTableNamesTheVerdictOfEveryBar(t *testing.T) {
	rows := []Row{{Part: "a", Name: "good", Unit: "ns", Value: 100.26, Low: 90, High: 110, Bar: 120},
		{Part: "a", Name: "bad", Unit: "x", Value: 1.5, Low: 1.4, High: 1.6, Bar: 1.1}, {Part: "a", Name: "the rest", Failed: "no | lab"}, {Part: "b", Name: "size", Unit: "MiB", Value: 25}}
	var text, page bytes.Buffer
	Print(&text, rows)
	Markdown(&page, rows)
	for _, want := range []string{"100", "met", "MISSED", "FAILED", "1.500", "a\n", "b\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, text.String())
		}
	}
	if !strings.Contains(page.String(), "| bad | **1.500 x** | 1.400–1.600 | 1.1 | **MISSED** |") {
		t.Errorf("page:\n%s", page.String())
	}
	if !strings.Contains(page.String(), "| the rest | | | | **FAILED** | no \\| lab |") {
		t.Errorf("page without what failed:\n%s", page.String())
	}
}

func TestACurveIsATableOfItsOwn(t *testing.T) {
	point := func(name string, at int, v float64) Row {
		r := Single(name, "us", v)
		r.Part, r.Curve, r.At = "services", "CRR", at
		return r
	}
	bar := Single("ratio", "x", 1).Below(1.03)
	bar.Part = "services"
	rows := []Row{bar, point("ours", 10, 20), point("ours", 30000, 21), point("theirs", 10, 30), point("theirs", 30000, 300)}
	var page, sheet strings.Builder
	Markdown(&page, rows)
	for _, want := range []string{"| **1.000 x** |", "### CRR, us\n\n| | ours | theirs |\n|---|---|---|\n| 10 | 20.0 | 30.0 |\n| 30000 | 21.0 | 300 |\n"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, page.String())
		}
	}
	if err := CSV(&sheet, rows); err != nil {
		t.Fatal(err)
	}
	if want := "services,CRR,theirs,30000,300,300,300,us,,\n"; !strings.HasSuffix(sheet.String(), want) {
		t.Errorf("the sheet ends with %q, want %q", sheet.String(), want)
	}
}
