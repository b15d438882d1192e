// SPDX-License-Identifier: Apache-2.0

package test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	countsFile    = "testdata/instructions.txt"
	sizeColumn    = "size"
	growthAllowed = 5 // per cent
)

var (
	update = flag.Bool("update", false, "write "+countsFile)
	why    = flag.String("why", "", "with -update: why programs grow, a line in "+countsFile)
)

// counts is the recorded table: by column (size, or a kernel) and program.
type counts struct {
	columns map[string]map[string]int
	why     []string // lines that explain a growth, oldest first
}

const countsHead = `# Instructions of each program: in its object (size), and those that the verifier
# of a kernel walks, the most over all settings. A program may grow by 5 % above
# its number here. More needs a reason, which -update -why "..." adds at the end.
`

func readCounts(text []byte) (counts, error) {
	c := counts{columns: map[string]map[string]int{}}
	var header []string
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line := s.Text()
		switch fields := strings.Fields(line); {
		case len(fields) == 0 || fields[0] == "#":
		case fields[0] == "why":
			c.why = append(c.why, line)
		case header == nil:
			header = fields[1:]
			for _, h := range header {
				c.columns[h] = map[string]int{}
			}
		case len(fields) != 1+len(header):
			return c, fmt.Errorf("line %q has not %d columns", line, 1+len(header))
		default:
			for i, h := range header {
				if fields[i+1] == "-" {
					continue
				}
				n, err := strconv.Atoi(fields[i+1])
				if err != nil {
					return c, fmt.Errorf("line %q: %w", line, err)
				}
				c.columns[h][fields[0]] = n
			}
		}
	}
	return c, nil
}

func (c counts) text() []byte {
	columns := slices.SortedFunc(maps.Keys(c.columns), func(a, b string) int { return compareVersions(a, b) })
	programs := map[string]bool{}
	for _, column := range c.columns {
		for p := range column {
			programs[p] = true
		}
	}
	var b bytes.Buffer
	b.WriteString(countsHead)
	row := func(name string, cell func(column string) string) {
		fmt.Fprintf(&b, "%-20s", name)
		for _, column := range columns {
			fmt.Fprintf(&b, " %6s", cell(column))
		}
		b.WriteByte('\n')
	}
	row("program", func(column string) string { return column })
	for _, p := range slices.Sorted(maps.Keys(programs)) {
		row(p, func(column string) string {
			if n, ok := c.columns[column][p]; ok {
				return strconv.Itoa(n)
			}
			return "-"
		})
	}
	for _, line := range c.why {
		fmt.Fprintln(&b, line)
	}
	return b.Bytes()
}

// compareVersions sorts "size" before kernels, and kernels by their numbers.
func compareVersions(a, b string) int {
	parse := func(s string) (out []int) {
		for part := range strings.SplitSeq(s, ".") {
			n, _ := strconv.Atoi(part)
			out = append(out, n)
		}
		return out
	}
	return slices.Compare(parse(a), parse(b))
}

// take compares new numbers with the recorded ones and brings them up to date.
// What grew too much without a reason is returned, a line each, and stays as it
// was; growth within the limit is not recorded, so that it cannot add up.
func (c *counts) take(now map[string]map[string]int, reason string) (grown []string) {
	for _, column := range slices.Sorted(maps.Keys(now)) {
		old := c.columns[column]
		if old == nil {
			old = map[string]int{}
			c.columns[column] = old
		}
		for _, p := range slices.Sorted(maps.Keys(now[column])) {
			n := now[column][p]
			was, known := old[p]
			if known && n*100 > was*(100+growthAllowed) {
				line := fmt.Sprintf("%s %s %d -> %d", p, column, was, n)
				if reason == "" {
					grown = append(grown, line)
					continue
				}
				c.why = append(c.why, "why "+line+": "+reason)
				old[p] = n
			}
			if !known || n < was {
				old[p] = n
			}
		}
		for p := range old {
			if _, ok := now[column][p]; !ok {
				delete(old, p)
			}
		}
	}
	return grown
}

// compareCounts fails if a program grew; how repeats the test.
func compareCounts(t *testing.T, now map[string]map[string]int, how string) {
	t.Helper()
	text, err := os.ReadFile(countsFile)
	if err != nil {
		t.Fatal(err)
	}
	c, err := readCounts(text)
	if err != nil {
		t.Fatalf("%s: %v", countsFile, err)
	}
	for column, programs := range now {
		if c.columns[column] == nil && !*update {
			t.Logf("%s has no counts of Linux %s: every verifier counts in its own way", countsFile, column)
			delete(now, column)
			continue
		}
		for p := range programs {
			if _, ok := c.columns[column][p]; !ok && !*update {
				t.Errorf("%s of %s is not in %s: repeat with -update", p, column, countsFile)
			}
		}
	}
	for _, line := range c.take(now, *why) {
		t.Errorf("%s instructions: more than %d %%; if it must be, say why: %s -update -why '...'", line, growthAllowed, how)
	}
	if *update {
		if err := os.WriteFile(countsFile, c.text(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// release is the kernel's version as far as it matters here, as "6.18".
func release(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	return strings.Join(parts[:2], ".")
}

func TestGrowthOfAProgramNeedsAReason(t *testing.T) {
	c, err := readCounts([]byte("program size 6.1\na 100 1000\nb 100 1000\nold 1 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	grown := c.take(map[string]map[string]int{sizeColumn: {"a": 105, "b": 106, "new": 7}}, "")
	if len(grown) != 1 || grown[0] != "b size 100 -> 106" {
		t.Errorf("grown: %q", grown)
	}
	if got := c.columns[sizeColumn]; got["a"] != 100 || got["b"] != 100 || got["new"] != 7 || len(got) != 3 {
		t.Errorf("recorded: %v", got)
	}
	if grown := c.take(map[string]map[string]int{"6.1": {"a": 900, "b": 2000}}, "more is asked of it"); grown != nil {
		t.Errorf("grown with a reason: %q", grown)
	}
	want := countsHead + `program                size    6.1
a                       100    900
b                       100   2000
new                       7      -
why b 6.1 1000 -> 2000: more is asked of it
`
	if got := string(c.text()); got != want {
		t.Errorf("written:\n%s\nwant:\n%s", got, want)
	}
	again, err := readCounts(c.text())
	if err != nil || string(again.text()) != want {
		t.Errorf("read again: %v\n%s", err, again.text())
	}
}
