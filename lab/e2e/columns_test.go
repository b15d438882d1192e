// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/stentor-net/stentor/lab/internal/demo"
)

var update = flag.Bool("update", false, "write what is seen to the golden files")

// columns: kubectl shows the objects that users know, with their columns.
func (s *setup) columns() {
	s.needsAgent()
	if _, err := exec.LookPath("kubectl"); err != nil {
		s.t.Skip("no kubectl here (its package or release has it)")
	}
	s.apply(demo.Empire + "---\n" + demo.Rule1) // the story may run alone
	golden := filepath.Join("testdata", "objects.golden")
	want, err := os.ReadFile(golden)
	if err != nil && !*update {
		s.t.Fatal(err)
	}
	var got string
	look := func(ctx context.Context) (bool, error) {
		cmd := exec.CommandContext(ctx, "kubectl", "get", "nodes,pods,cep,ciliumnodes,ciliumid,cnp", "-A", "-o", "wide")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+s.plan.Kubeconfig())
		out, err := cmd.CombinedOutput()
		if err != nil {
			return false, fmt.Errorf("%w: %s", err, out)
		}
		got = maskTables(string(out))
		return *update || got == string(want), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := look(ctx)
		if ok {
			break
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("%v\nseen:\n%s\nwant (%s; -update writes it):\n%s", err, got, golden, want)
		case <-tick.C:
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
}

// maskTables rewrites kubectl's tables with one line per object, cells between
// bars, and what differs from run to run replaced by a word. The rows of a table
// are sorted, since names with random parts do not keep their order.
func maskTables(out string) string {
	b := &strings.Builder{}
	for _, table := range strings.Split(strings.TrimSpace(out), "\n\n") {
		lines := strings.Split(table, "\n")
		starts, names := header(lines[0])
		var rows []string
		for _, line := range lines[1:] {
			rows = append(rows, strings.Join(maskRow(cells(line, starts), names), " | "))
		}
		slices.Sort(rows)
		// Two nodes that ask for an identity at the same time may leave a second
		// one behind, which nobody uses and the operator collects.
		if slices.ContainsFunc(rows, func(r string) bool { return strings.Contains(r, "ciliumidentity.") }) {
			rows = slices.Compact(rows)
		}
		fmt.Fprintf(b, "%s\n%s\n\n", strings.Join(names, " | "), strings.Join(rows, "\n"))
	}
	return b.String()
}

var columnRE = regexp.MustCompile(`\S+( \S+)*`)

// header finds where the columns start and their names.
func header(line string) (starts []int, names []string) {
	for _, at := range columnRE.FindAllStringIndex(line, -1) {
		starts = append(starts, at[0])
		names = append(names, line[at[0]:at[1]])
	}
	return starts, names
}

func cells(line string, starts []int) (out []string) {
	for i, start := range starts {
		end := len(line)
		if i+1 < len(starts) {
			end = min(end, starts[i+1])
		}
		out = append(out, strings.TrimSpace(line[min(start, len(line)):end]))
	}
	return out
}

// masks replace what differs from run to run, anywhere in a table. Addresses of
// nodes stay: the lab always has the same.
var masks = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`^10\.244\.\d+\.\d+$`), "POD-IPV4"},
	{regexp.MustCompile(`^fd00:10:244:[0-9a-f:]+$`), "POD-IPV6"},
	{regexp.MustCompile(`^(\S+?)-[0-9a-f]{6,10}-[0-9a-z]{5}$`), "$1-HASH"},
	{regexp.MustCompile(`^(\S*stentor\S*?)-[0-9a-z]{5}$`), "$1-HASH"},
	{regexp.MustCompile(`^ciliumidentity.cilium.io/\d+$`), "ciliumidentity.cilium.io/NUMBER"},
}

var anyNode = regexp.MustCompile(`^(node\d|172\.30\.0\.1\d)$`)

// maskRow masks cells of columns that hold numbers or times altogether.
func maskRow(row, names []string) []string {
	// These two run where the scheduler puts them.
	if slices.ContainsFunc(row, func(c string) bool {
		return strings.HasPrefix(c, "pod/coredns-") || strings.HasPrefix(c, "pod/stentor-operator-")
	}) {
		for i := range row {
			row[i] = anyNode.ReplaceAllString(row[i], "NODE")
		}
	}
	for i, name := range names {
		switch name {
		case "AGE", "KERNEL-VERSION", "OS-IMAGE", "CONTAINER-RUNTIME", "RESTARTS":
			row[i] = name
		case "ENDPOINT ID", "IDENTITY ID":
			if regexp.MustCompile(`^[1-9]\d*$`).MatchString(row[i]) {
				row[i] = "NUMBER"
			}
		}
		for _, m := range masks {
			row[i] = m.re.ReplaceAllString(row[i], m.to)
		}
	}
	return row
}
