// SPDX-License-Identifier: Apache-2.0

package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed lists/*.txt
var lists embed.FS

// mutant is one breakage of the tree and the tests that must see it.
type mutant struct {
	row   string // of docs/reference/bad-input.md: what is wrong
	name  string // what is broken
	slow  bool   // takes minutes: only with -slow
	edits []edit
	tests []proof
}

// edit replaces a text that a file has once.
type edit struct {
	file     string // from the root of the tree
	old, new string // whole lines
}

// proof is a test that must fail, and a text that its output must have, so that
// it fails for the right reason.
type proof struct {
	folder, test, says string
}

// function is the Go function of the test, which may be a part of one: TestX/part.
func (p proof) function() string {
	name, _, _ := strings.Cut(p.test, "/")
	return name
}

func (m mutant) title() string { return m.row + ": " + m.name }

// parse reads a list. Its lines are
//
//	= ROW OF THE PAGE        for the mutants that follow
//	# NAME OF A MUTANT       begins one; "# slow: NAME" is left out without -slow
//	file PATH                of the edit that follows
//	-LINE and +LINE          old text and new text
//	test FOLDER TEST: TEXT   must fail and say so; TEST may be TEST/PART OF IT
//
// and empty ones. Two edits of one file each have their line "file".
func parse(text string) (out []mutant, err error) {
	row, m := "", (*mutant)(nil)
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if err := parseLine(line, &row, &m, &out); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	for _, m := range out {
		if m.row == "" || len(m.edits) == 0 || len(m.tests) == 0 {
			return nil, fmt.Errorf("%s: it needs a row, an edit and a test", m.title())
		}
	}
	return out, nil
}

func parseLine(line string, row *string, m **mutant, out *[]mutant) error {
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case line == "":
		return nil
	case word == "=":
		*row, *m = rest, nil
		return nil
	case word == "#":
		name, slow := strings.CutPrefix(rest, "slow: ")
		*out = append(*out, mutant{row: *row, name: name, slow: slow})
		*m = &(*out)[len(*out)-1]
		return nil
	case *m == nil:
		return errors.New(`it stands before the first "# NAME" of its row`)
	case word == "file":
		(*m).edits = append((*m).edits, edit{file: rest})
		return nil
	case word == "test":
		where, says, _ := strings.Cut(rest, ": ")
		folder, test, ok := strings.Cut(where, " ")
		if !ok || says == "" {
			return fmt.Errorf("%q is not FOLDER TEST: TEXT", rest)
		}
		(*m).tests = append((*m).tests, proof{folder, test, says})
		return nil
	}
	if len((*m).edits) == 0 {
		return errors.New(`an edit needs its "file PATH"`)
	}
	e := &(*m).edits[len((*m).edits)-1]
	switch line[0] {
	case '-':
		e.old += line[1:] + "\n"
	case '+':
		e.new += line[1:] + "\n"
	default:
		return fmt.Errorf("%q is not understood", line)
	}
	return nil
}

// all mutants of the lists.
func all() (out []mutant, err error) {
	names, err := fs.Glob(lists, "lists/*.txt")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := lists.ReadFile(name)
		if err != nil {
			return nil, err
		}
		some, err := parse(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, some...)
	}
	return out, nil
}

// files of the tree below root that the mutant changes, with their new content.
func (m mutant) files(root string) (map[string]string, error) {
	out := map[string]string{}
	for _, e := range m.edits {
		text, ok := out[e.file]
		if !ok {
			b, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		// From the beginning of a line on, so that no line is the end of another.
		if n := strings.Count("\n"+text, "\n"+e.old); n != 1 || e.old == "" {
			return nil, fmt.Errorf("%s has %d times what the mutant replaces:\n%s", e.file, n, e.old)
		}
		out[e.file] = strings.Replace("\n"+text, "\n"+e.old, "\n"+e.new, 1)[1:]
	}
	return out, nil
}

// changesPrograms tells whether C is changed.
func (m mutant) changesPrograms() bool {
	return slices.ContainsFunc(m.edits, func(e edit) bool { return strings.HasPrefix(e.file, "bpf/") })
}
