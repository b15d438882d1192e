// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../../.."

// TestEveryMutantStillApplies finds mutants whose code has changed: what they
// break must be written anew, or stands elsewhere.
func TestEveryMutantStillApplies(t *testing.T) {
	mutants, err := all()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range mutants {
		if seen[m.title()] {
			t.Errorf("%s: twice", m.title())
		}
		seen[m.title()] = true
		if _, err := m.files(root); err != nil {
			t.Errorf("%s: %v", m.title(), err)
		}
		for _, p := range m.tests {
			if !hasTest(t, p.folder, p.function()) {
				t.Errorf("%s: there is no %s in %s", m.title(), p.function(), p.folder)
			}
		}
	}
}

func hasTest(t *testing.T, folder, name string) bool {
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
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

// TestEveryRowOfThePageHasItsMutants wants each test that the page names to be
// shown to fail without the handling.
func TestEveryRowOfThePageHasItsMutants(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/reference/bad-input.md"))
	if err != nil {
		t.Fatal(err)
	}
	mutants, err := all()
	if err != nil {
		t.Fatal(err)
	}
	proven := map[[2]string]bool{} // row, test
	for _, m := range mutants {
		for _, p := range m.tests {
			proven[[2]string{m.row, p.function()}] = true
		}
	}
	rows := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || strings.HasPrefix(cells[1], " What") || strings.HasPrefix(cells[1], "---") {
			continue
		}
		row := strings.TrimSpace(cells[1])
		rows[row] = true
		for _, name := range strings.Split(strings.TrimSpace(cells[3]), ", ") {
			name = name[strings.LastIndex(name, " ")+1:] // without the folder
			if !proven[[2]string{row, name}] {
				t.Errorf("%s: no mutant shows that %s fails without its handling", row, name)
			}
		}
	}
	for _, m := range mutants {
		if !rows[m.row] {
			t.Errorf("%s: the page has no such row", m.title())
		}
	}
}

func TestAListIsReadAsItIsWritten(t *testing.T) {
	got, err := parse("= row\n# slow: one\nfile a/b.go\n-\told\n+\tnew\nfile a/b.go\n-x\ntest a TestB/part of it: says: so\n")
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	m := got[0]
	if m.row != "row" || m.name != "one" || !m.slow || len(m.edits) != 2 || m.edits[0] != (edit{"a/b.go", "\told\n", "\tnew\n"}) || m.edits[1] != (edit{"a/b.go", "x\n", ""}) {
		t.Errorf("%+v", m)
	}
	if want := (proof{"a", "TestB/part of it", "says: so"}); m.tests[0] != want || want.function() != "TestB" {
		t.Errorf("%+v", m.tests)
	}
	for what, text := range map[string]string{
		"an edit before a mutant": "= row\nfile a\n", "a line without its file": "= row\n# one\n-x\n", "no test": "= row\n# one\nfile a\n-x\n",
		"a test that says nothing": "= row\n# one\nfile a\n-x\ntest a TestB\n", "no row": "# one\nfile a\n-x\ntest a TestB: x\n", "another line": "= row\n# one\nfile a\nwhat\n",
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

func TestATextThatIsNotThereOnceIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("a\nb\na b\nb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for old, want := range map[string]string{"a\n": "new\nb\na b\nb\n", "b\n": "", "c\n": "", "a b\nb\n": "a\nb\nnew\n"} {
		got, err := mutant{edits: []edit{{"f", old, "new\n"}}}.files(dir)
		if got["f"] != want || (want == "") != (err != nil) {
			t.Errorf("%q: %q, %v", old, got["f"], err)
		}
	}
}
