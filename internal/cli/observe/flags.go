// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	flowpb "github.com/stentor-net/stentor/api/flow"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/identity"
)

// filterFlags collects the flags that select flows, in the order they are given.
type filterFlags struct {
	given []*given
	not   bool // --not was given and waits for its flag
}

// given is one flag with all its values.
type given struct {
	flag   *filterFlag
	values []string
	not    bool
}

// filterFlag is a flag that selects flows. It has one or more ways to be true,
// such as "the source is" and "the destination is".
type filterFlag struct {
	name, short, usage string
	ways               []func(f *flowpb.FlowFilter, value string) error
	choices            []string // for completion; optional
}

// addTo adds all flags to the command.
func (l *filterFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.VarPF(notValue{l}, "not", "", "leave out what the next flag selects").NoOptDefVal = "true"
	for i := range filterList {
		f := &filterList[i]
		flags.VarP(&filterValue{l, f}, f.name, f.short, f.usage)
		if f.choices != nil {
			_ = cmd.RegisterFlagCompletionFunc(f.name, cobra.FixedCompletions(f.choices, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	for _, v := range []struct{ name, short, version string }{{"ipv4", "4", "4"}, {"ipv6", "6", "6"}} {
		flags.VarPF(constValue{&filterValue{l, &ipVersionFlag}, v.version}, v.name, v.short, "only IPv"+v.version).NoOptDefVal = "true"
	}
}

// notValue is --not.
type notValue struct{ l *filterFlags }

func (n notValue) String() string     { return "" }
func (n notValue) Type() string       { return "bool" }
func (n notValue) Set(v string) error { n.l.not = v == "true"; return nil }

// filterValue takes the values of one flag, several of them separated by commas.
type filterValue struct {
	l *filterFlags
	f *filterFlag
}

func (v *filterValue) String() string { return "" }
func (v *filterValue) Type() string   { return "strings" }
func (v *filterValue) Set(text string) error {
	values := []string{text}
	if !strings.Contains(v.f.name, "label") && !strings.HasPrefix(v.f.name, "http-") && v.f.name != "tcp-flags" { // there a comma has its own meaning
		values = strings.Split(text, ",")
	}
	for _, value := range values {
		for _, way := range v.f.ways {
			if err := way(&flowpb.FlowFilter{}, value); err != nil {
				return err
			}
		}
	}
	not := v.l.not
	v.l.not = false
	for _, g := range v.l.given {
		if g.flag == v.f && g.not == not {
			g.values = append(g.values, values...)
			return nil
		}
	}
	v.l.given = append(v.l.given, &given{v.f, values, not})
	return nil
}

// constValue is a flag without a value that stands for another with one.
type constValue struct {
	*filterValue
	value string
}

func (c constValue) Type() string { return "bool" }
func (c constValue) Set(text string) error {
	if text == "false" {
		return nil
	}
	return c.filterValue.Set(c.value)
}

// compile gives the lists of a request: one filter for each combination of
// ways. Each flag after --not is a filter of its own, so that any of them
// leaves a flow out.
func (l *filterFlags) compile() (allow, deny []*flowpb.FlowFilter, err error) {
	if l.not {
		return nil, nil, command.Usagef("--not has no flag after it")
	}
	namespace := l.qualify()
	order := slices.Clone(l.given)
	slices.SortStableFunc(order, func(a, b *given) int { // namespaces last: see inNamespace
		return cmp.Compare(strings.Count(a.flag.name, "namespace"), strings.Count(b.flag.name, "namespace"))
	})
	for _, g := range order {
		if g.not {
			for _, way := range g.flag.ways {
				f := &flowpb.FlowFilter{}
				g.apply(f, way, namespace)
				deny = append(deny, f)
			}
			continue
		}
		if len(allow) == 0 {
			allow = []*flowpb.FlowFilter{{}}
		}
		var next []*flowpb.FlowFilter
		for _, have := range allow {
			for _, way := range g.flag.ways {
				f := proto.CloneOf(have)
				g.apply(f, way, namespace)
				next = append(next, f)
			}
		}
		allow = next
	}
	return allow, deny, nil
}

// qualify tells the one namespace that pods without one are in, "" if that is open.
func (l *filterFlags) qualify() string {
	for _, g := range l.given {
		if g.flag.name == "namespace" && !g.not && len(g.values) == 1 {
			return g.values[0]
		}
	}
	return ""
}

func (g *given) apply(f *flowpb.FlowFilter, way func(*flowpb.FlowFilter, string) error, namespace string) {
	for _, v := range g.values {
		if namespace != "" && !strings.Contains(v, "/") && (strings.HasSuffix(g.flag.name, "pod") || strings.HasSuffix(g.flag.name, "service")) {
			v = namespace + "/" + v
		}
		_ = way(f, v) // was tried when the flag was read
	}
}

// add appends a text to a field.
func add(field func(*flowpb.FlowFilter) *[]string) func(*flowpb.FlowFilter, string) error {
	return func(f *flowpb.FlowFilter, v string) error {
		list := field(f)
		*list = append(*list, v)
		return nil
	}
}

// ends are the flags NAME, from-NAME and to-NAME.
func ends(name, short, what string, source, destination func(*flowpb.FlowFilter, string) error) []filterFlag {
	type way = func(*flowpb.FlowFilter, string) error
	return []filterFlag{
		{name: name, short: short, usage: what + ", at either end", ways: []way{source, destination}},
		{name: "from-" + name, usage: what + ", as source", ways: []way{source}},
		{name: "to-" + name, usage: what + ", as destination", ways: []way{destination}},
	}
}

// one is a flag with one way.
func one(name, usage string, way func(*flowpb.FlowFilter, string) error, choices ...string) filterFlag {
	return filterFlag{name: name, usage: usage, ways: []func(*flowpb.FlowFilter, string) error{way}, choices: choices}
}

func words(name, usage string, field func(*flowpb.FlowFilter) *[]string, choices ...string) filterFlag {
	return one(name, usage, add(field), choices...)
}

// enumerated reads one of the names of an enumeration.
func enumerated[E ~int32](values map[string]int32, put func(*flowpb.FlowFilter, E)) func(*flowpb.FlowFilter, string) error {
	return func(f *flowpb.FlowFilter, v string) error {
		n, ok := values[strings.ToUpper(v)]
		if !ok {
			return fmt.Errorf("%q is none of %s", v, strings.Join(names(values), ", "))
		}
		put(f, E(n))
		return nil
	}
}

// names of an enumeration, in order of number, without the one for unknown.
func names(values map[string]int32) []string {
	var out []string
	for name, n := range values {
		if n != 0 {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return int(values[a] - values[b]) })
	return out
}

// byIdentity reads the number of an identity, or the name of a reserved one.
func byIdentity(put func(*flowpb.FlowFilter, uint32)) func(*flowpb.FlowFilter, string) error {
	return func(f *flowpb.FlowFilter, v string) error {
		var names []string
		for id := identity.Host; id <= identity.WorldIPv6; id++ {
			if id.Name() == v {
				put(f, uint32(id))
				return nil
			}
			names = append(names, id.Name())
		}
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is neither the number of an identity nor one of %s", v, strings.Join(names, ", "))
		}
		put(f, uint32(n))
		return nil
	}
}
