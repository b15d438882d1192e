// SPDX-License-Identifier: Apache-2.0

package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testFolder = regexp.MustCompile("^`([^`]+)` ")
	testName   = regexp.MustCompile(`^(Test|Fuzz)[A-Za-z0-9]+$`)
)

// TestEachBadInputHasItsTest keeps docs/reference/bad-input.md honest: every row
// names tests, and they exist.
func TestEachBadInputHasItsTest(t *testing.T) {
	page, err := os.ReadFile("../docs/reference/bad-input.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], " What") || strings.HasPrefix(cells[1], "---") {
			continue
		}
		rows++
		folder := ""
		for _, name := range strings.Split(strings.TrimSpace(cells[3]), ", ") {
			if m := testFolder.FindStringSubmatch(name); m != nil {
				folder, name = m[1], strings.TrimPrefix(name, m[0])
			}
			if !testName.MatchString(name) || !hasTest(t, folder, name) {
				t.Errorf("%s: there is no test %q in %q", strings.TrimSpace(cells[1]), name, folder)
			}
		}
	}
	if rows < 30 {
		t.Errorf("only %d rows were found", rows)
	}
}

func hasTest(t *testing.T, folder, name string) bool {
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
