// SPDX-License-Identifier: Apache-2.0

package command

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// Output formats.
const (
	Table = "table"
	Wide  = "wide"
	JSON  = "json"
	YAML  = "yaml"
)

// Output is the value of -o.
type Output string

// ForPeople tells whether the output is text to look at, not an object.
func (o Output) ForPeople() bool { return o == Table || o == Wide }

// AddTo adds the flag -o with the given formats, of which the first is the
// default. Whoever prints tables takes wide too, also if it has nothing to add.
func (o *Output) AddTo(cmd *cobra.Command, formats ...string) {
	*o = Output(formats[0])
	if i := slices.Index(formats, Table); i >= 0 && !slices.Contains(formats, Wide) {
		formats = slices.Insert(slices.Clone(formats), i+1, Wide)
	}
	Enum(cmd, (*string)(o), "output", "o", formats, "format of the output")
}

// Enum adds a string flag that takes one of the values; the first is the
// default unless the variable holds one already.
func Enum(cmd *cobra.Command, target *string, name, short string, values []string, usage string) {
	if *target == "" {
		*target = values[0]
	}
	cmd.Flags().VarP(&enum{target, values}, name, short, usage+": "+strings.Join(values, ", "))
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

type enum struct {
	target *string
	values []string
}

func (e *enum) String() string { return *e.target }
func (e *enum) Type() string   { return "string" }
func (e *enum) Set(s string) error {
	if !slices.Contains(e.values, s) {
		return fmt.Errorf("must be one of %s", strings.Join(e.values, ", "))
	}
	*e.target = s
	return nil
}

// Column of a printed table.
type Column[R any] struct {
	Name  string // upper-case heading
	Value func(R) string
	Wide  bool // printed with -o wide only
}

// Print writes rows in the format asked for. Object is what JSON and YAML show;
// nil stands for the rows.
func Print[R any](s Streams, format Output, columns []Column[R], rows []R, object any) error {
	if object == nil {
		object = rows
		if rows == nil {
			object = []R{}
		}
	}
	if format == JSON || format == YAML {
		return PrintObject(s, format, object)
	}
	var headings []string
	for _, c := range columns {
		if format == Wide || !c.Wide {
			headings = append(headings, c.Name)
		}
	}
	cells := make([][]string, 0, len(rows))
	for _, r := range rows {
		var line []string
		for _, c := range columns {
			if format == Wide || !c.Wide {
				line = append(line, c.Value(r))
			}
		}
		cells = append(cells, line)
	}
	return PrintCells(s.Out, headings, cells)
}

// PrintObject writes the object as JSON or YAML.
func PrintObject(s Streams, format Output, object any) error {
	text, err := json.MarshalIndent(object, "", "  ")
	if err == nil && format == YAML {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	_, err = fmt.Fprintln(s.Out, strings.TrimRight(string(text), "\n"))
	return err
}

// PrintCells writes aligned columns with two spaces between them. Empty cells
// become a dash, so that a line can be split at white space.
func PrintCells(w io.Writer, headings []string, rows [][]string) error {
	width := make([]int, len(headings))
	for i, h := range headings {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, row := range rows {
		for i, cell := range row {
			if i < len(width) {
				width[i] = max(width[i], utf8.RuneCountInString(dash(cell)))
			}
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		for i, cell := range cells {
			cell = dash(cell)
			b.WriteString(cell)
			if i < len(cells)-1 && i < len(width) {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	line(headings)
	for _, row := range rows {
		line(row)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func dash(cell string) string {
	if cell == "" {
		return "-"
	}
	return strings.ReplaceAll(cell, "\n", " ")
}

// Colors of the terminal.
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Bold   = "1"
	Dim    = "2"
)

// Paint colours the text where colours are allowed.
func (s Streams) Paint(color, text string) string {
	if !s.Color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// PrintTable writes a table whose columns the agent chose. JSON and YAML show a
// list of objects whose keys are the headings in lower case.
func PrintTable(s Streams, format Output, headings []string, rows [][]string) error {
	if format != JSON && format != YAML {
		return PrintCells(s.Out, headings, rows)
	}
	objects := []map[string]string{}
	for _, row := range rows {
		object := map[string]string{}
		for i, cell := range row {
			if i < len(headings) {
				object[strings.ToLower(headings[i])] = cell
			}
		}
		objects = append(objects, object)
	}
	return PrintObject(s, format, objects)
}
