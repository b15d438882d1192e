// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// FileEnv names the file that Report appends rows to.
const FileEnv = "STENTOR_BENCH_ROWS"

// reporter is the part of testing.TB that Report needs.
type reporter interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Report hands the rows of a test or benchmark to whoever runs it: as lines of
// its log, and to the file of FileEnv, where `make bench` finds them.
func Report(t reporter, rows ...Row) {
	t.Helper()
	for _, r := range rows {
		t.Logf("%s", r)
	}
	if file := os.Getenv(FileEnv); file != "" {
		if err := Append(file, rows...); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// Append adds rows to a file, one JSON object a line.
func Append(file string, rows ...Row) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("add to measurements: %w", err)
	}
	enc := json.NewEncoder(f)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			f.Close()
			return fmt.Errorf("add %q to measurements: %w", r.Name, err)
		}
	}
	return f.Close()
}

// Read returns the rows of such a file; none if it is not there.
func Read(file string) ([]Row, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []Row
	for dec := json.NewDecoder(f); ; {
		var r Row
		switch err := dec.Decode(&r); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("read measurements of %s: %w", file, err)
		}
		out = append(out, r)
	}
}

// String is the row in one line.
func (r Row) String() string {
	if r.Failed != "" {
		return r.Name + ": " + string(Failed) + ": " + r.Failed
	}
	s := r.label() + ": " + r.number(r.Value) + " " + r.Unit
	if r.Curve != "" {
		s = r.Curve + " at " + strconv.Itoa(r.At) + ", " + s
	}
	if r.Low != r.High {
		s += " (" + r.number(r.Low) + " to " + r.number(r.High) + ")"
	}
	if r.Bar != 0 {
		s += fmt.Sprintf(", bar %s: %s", r.bar(), r.Verdict())
	}
	return s
}

// label is the name with the place on the curve, if it is on one.
func (r Row) label() string {
	if r.Curve == "" {
		return r.Name
	}
	return r.Curve + " at " + strconv.Itoa(r.At) + ", " + r.Name
}

// number has as many digits as mean something.
func (r Row) number(v float64) string {
	digits := 2
	switch abs := max(v, -v); {
	case r.Unit == "x":
		digits = 3
	case abs >= 100:
		digits = 0
	case abs >= 10:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

func (r Row) bar() string {
	if r.Bar == 0 {
		return ""
	}
	return strconv.FormatFloat(r.Bar, 'f', -1, 64)
}

func (r Row) interval(dash string) string {
	if r.Low == r.High {
		return ""
	}
	return r.number(r.Low) + dash + r.number(r.High)
}

// Print writes the rows for a terminal, grouped by their part.
func Print(w io.Writer, rows []Row) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	part := ""
	for i, r := range rows {
		if r.Part != part || i == 0 {
			part = r.Part
			fmt.Fprintf(tw, "\n%s\nNAME\tVALUE\tUNIT\t95 %%\tBAR\tVERDICT\tHOW\n", part)
		}
		if r.Failed != "" {
			fmt.Fprintf(tw, "%s\t\t\t\t\t%s\t%s\n", r.Name, Failed, r.Failed)
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.label(), r.number(r.Value), r.Unit, r.interval("-"), r.bar(), r.Verdict(), r.How)
	}
	tw.Flush()
}

// Markdown writes the rows as tables of a page, one for each part and one for
// each curve of it.
func Markdown(w io.Writer, rows []Row) {
	part := ""
	for i, r := range rows {
		if r.Curve != "" {
			continue
		}
		if r.Part != part || i == 0 {
			if part != "" {
				curves(w, part, rows)
			}
			part = r.Part
			fmt.Fprintf(w, "\n## %s\n\n| What | Value | 95 %% | Bar | Verdict | How |\n|---|---|---|---|---|---|\n", part)
		}
		if r.Failed != "" {
			fmt.Fprintf(w, "| %s | | | | **%s** | %s |\n", r.Name, Failed, strings.ReplaceAll(r.Failed, "|", "\\|"))
			continue
		}
		value, verdict := r.number(r.Value)+" "+r.Unit, string(r.Verdict())
		if r.Bar != 0 {
			value = "**" + value + "**"
		}
		if r.Verdict() == Missed {
			verdict = "**" + verdict + "**"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", r.Name, value, r.interval("–"), r.bar(), verdict, r.How)
	}
	curves(w, part, rows)
}

// curves writes the curves of a part: a line of the table for each place on the
// axis, a column for each line of the curve.
func curves(w io.Writer, part string, rows []Row) {
	points := slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Part != part || r.Curve == "" })
	for len(points) > 0 {
		curve := points[0].Curve
		var names []string
		var places []int
		cells := map[string]map[int]string{}
		unit := points[0].Unit
		points = slices.DeleteFunc(points, func(r Row) bool {
			if r.Curve != curve {
				return false
			}
			if cells[r.Name] == nil {
				cells[r.Name] = map[int]string{}
				names = append(names, r.Name)
			}
			if !slices.Contains(places, r.At) {
				places = append(places, r.At)
			}
			cells[r.Name][r.At] = r.number(r.Value)
			if i := r.interval("–"); i != "" {
				cells[r.Name][r.At] += " (" + i + ")"
			}
			return true
		})
		fmt.Fprintf(w, "\n### %s, %s\n\n| |", curve, unit)
		for _, n := range names {
			fmt.Fprintf(w, " %s |", n)
		}
		fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(names)))
		for _, at := range places {
			fmt.Fprintf(w, "| %d |", at)
			for _, n := range names {
				fmt.Fprintf(w, " %s |", cells[n][at])
			}
			fmt.Fprintln(w)
		}
	}
}

// CSV writes every row, with full numbers.
func CSV(w io.Writer, rows []Row) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"part", "curve", "name", "at", "value", "low", "high", "unit", "bar", "verdict"})
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
	for _, r := range rows {
		at := ""
		if r.Curve != "" {
			at = strconv.Itoa(r.At)
		}
		_ = out.Write([]string{r.Part, r.Curve, r.Name, at, number(r.Value), number(r.Low), number(r.High), r.Unit, r.bar(), string(r.Verdict())})
	}
	out.Flush()
	return out.Error()
}
