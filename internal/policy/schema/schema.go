// SPDX-License-Identifier: Apache-2.0

// Package schema accepts and refuses objects as an API server does that has the object's CustomResourceDefinition.
//
// It knows what our definitions use of structural schemas. The API server's own
// library would add 9 MB to the program, 16 with its expression language; a
// test holds this one against a real API server.
package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// Definition is a kind with its schema.
type Definition struct {
	Group, Kind string
	Namespaced  bool
	versions    map[string]*node
}

// Fault is something in an object that the API server refuses.
type Fault struct {
	Path string
	Text string
}

func (f Fault) String() string {
	if f.Path == "" {
		return f.Text
	}
	return f.Path + ": " + f.Text
}

// node is a schema, as far as our definitions use one.
type node struct {
	Type        string           `json:"type"`
	Properties  map[string]*node `json:"properties"`
	Additional  *node            `json:"additionalProperties"`
	Items       *node            `json:"items"`
	Required    []string         `json:"required"`
	Enum        []any            `json:"enum"`
	Pattern     string           `json:"pattern"`
	Format      string           `json:"format"`
	Minimum     *float64         `json:"minimum"`
	Maximum     *float64         `json:"maximum"`
	MinLength   *int             `json:"minLength"`
	MaxLength   *int             `json:"maxLength"`
	MinItems    *int             `json:"minItems"`
	MaxItems    *int             `json:"maxItems"`
	OneOf       []*node          `json:"oneOf"`
	AnyOf       []*node          `json:"anyOf"`
	Nullable    bool             `json:"nullable"`
	Default     any              `json:"default"`
	IntOrString bool             `json:"x-kubernetes-int-or-string"`
	Preserve    bool             `json:"x-kubernetes-preserve-unknown-fields"`
	ListType    string           `json:"x-kubernetes-list-type"`
	ListKeys    []string         `json:"x-kubernetes-list-map-keys"`
	Rules       []struct {
		Rule    string `json:"rule"`
		Message string `json:"message"`
	} `json:"x-kubernetes-validations"`
	Description string `json:"description"`
	AtomicMap   string `json:"x-kubernetes-map-type"`
}

// rules of the expression language that our definitions have, by their text.
var rules = map[string]func(map[string]any) bool{
	"has(self.spec) || (has(self.specs) && size(self.specs) > 0)": func(o map[string]any) bool {
		specs, _ := o["specs"].([]any)
		return o["spec"] != nil || len(specs) > 0
	},
	"self == oldSelf": func(map[string]any) bool { return true }, // of changes; there is no old object here
	"[has(self.addressMatcher),has(self.serviceMatcher)].filter(x,x==true).size() == 1": func(o map[string]any) bool {
		return (o["addressMatcher"] != nil) != (o["serviceMatcher"] != nil)
	},
}

// Parse reads a CustomResourceDefinition. What it does not know is an error, so
// that nothing is accepted unseen.
func Parse(text []byte) (*Definition, error) {
	var d struct {
		Spec struct {
			Group string
			Scope string
			Names struct{ Kind string }

			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema json.RawMessage `json:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	out := &Definition{Group: d.Spec.Group, Kind: d.Spec.Names.Kind, Namespaced: d.Spec.Scope == "Namespaced", versions: map[string]*node{}}
	for _, v := range d.Spec.Versions {
		dec := json.NewDecoder(strings.NewReader(string(v.Schema.OpenAPIV3Schema)))
		dec.DisallowUnknownFields()
		n := &node{}
		if err := dec.Decode(n); err != nil {
			return nil, fmt.Errorf("schema of %s %s: %w", out.Kind, v.Name, err)
		}
		if err := n.check(); err != nil {
			return nil, fmt.Errorf("schema of %s %s: %w", out.Kind, v.Name, err)
		}
		out.versions[v.Name] = n
	}
	return out, nil
}

// check fails for what a schema says and Validate does not know.
func (n *node) check() error {
	if n == nil {
		return nil
	}
	for _, r := range n.Rules {
		if rules[r.Rule] == nil {
			return fmt.Errorf("rule %q is not known", r.Rule)
		}
	}
	if _, err := regexp.Compile(n.Pattern); err != nil {
		return err
	}
	if !slices.Contains([]string{"", "cidr", "int32", "int64", "date-time"}, n.Format) {
		return fmt.Errorf("format %q is not known", n.Format)
	}
	for _, k := range slices.Sorted(maps.Keys(n.Properties)) {
		if err := n.Properties[k].check(); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	for _, sub := range slices.Concat(n.OneOf, n.AnyOf, []*node{n.Items, n.Additional}) {
		if err := sub.check(); err != nil {
			return err
		}
	}
	return nil
}

// Validate finds what the API server refuses in an object of a version of the kind.
func (d *Definition) Validate(version string, object map[string]any) []Fault {
	n := d.versions[version]
	if n == nil {
		return []Fault{{"apiVersion", fmt.Sprintf("%s/%s is not served: there are %s", d.Group, version, strings.Join(slices.Sorted(maps.Keys(d.versions)), ", "))}}
	}
	v := &validator{}
	body := maps.Clone(object)
	for _, known := range []string{"apiVersion", "kind", "metadata"} {
		delete(body, known) // every kind has them
	}
	top := *n
	top.Required = slices.DeleteFunc(slices.Clone(n.Required), func(s string) bool { return s == "metadata" })
	v.value("", &top, body)
	return v.faults
}

type validator struct {
	faults []Fault
	probe  bool // only whether there is a fault counts
}

func (v *validator) fault(path, format string, args ...any) {
	v.faults = append(v.faults, Fault{path, fmt.Sprintf(format, args...)})
}

// fits tells whether a value has no fault against a schema.
func fits(path string, n *node, value any) bool {
	v := &validator{probe: true}
	v.value(path, n, value)
	return len(v.faults) == 0
}

func (v *validator) value(path string, n *node, value any) {
	if value == nil {
		if !n.Nullable && n.Type != "" {
			v.fault(path, "must be of type %s, not null", n.Type)
		}
		return
	}
	if !n.takes(value) {
		v.fault(path, "must be of type %s, not %s", n.typeName(), typeOf(value))
		return
	}
	if len(n.Enum) > 0 && !slices.Contains(n.Enum, value) {
		v.fault(path, "%s is not one of %s", show(value), list(n.Enum))
	}
	switch x := value.(type) {
	case string:
		v.text(path, n, x)
	case float64:
		v.number(path, n, x)
	case []any:
		v.list(path, n, x)
	case map[string]any:
		v.object(path, n, x)
	}
	if o, ok := value.(map[string]any); ok {
		value = n.withoutNulls(o)
	}
	v.alternatives(path, n, value)
}

func (n *node) takes(value any) bool {
	switch x := value.(type) {
	case string:
		return n.Type == "string" || n.IntOrString || n.Type == ""
	case float64:
		whole := x == math.Trunc(x)
		return n.Type == "number" || (n.Type == "integer" || n.IntOrString) && whole || n.Type == "" && !n.IntOrString
	case bool:
		return n.Type == "boolean" || n.Type == "" && !n.IntOrString
	case []any:
		return n.Type == "array" || n.Type == "" && !n.IntOrString
	case map[string]any:
		return n.Type == "object" || n.Type == "" && !n.IntOrString
	}
	return false
}

func (n *node) typeName() string {
	if n.IntOrString {
		return "integer or string"
	}
	return n.Type
}

func typeOf(value any) string {
	switch x := value.(type) {
	case string:
		return "string"
	case float64:
		if x == math.Trunc(x) {
			return "integer"
		}
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "array"
	}
	return "object"
}

func (v *validator) text(path string, n *node, s string) {
	length := utf8.RuneCountInString(s)
	if n.MinLength != nil && length < *n.MinLength {
		v.fault(path, "%q is shorter than %d", s, *n.MinLength)
	}
	if n.MaxLength != nil && length > *n.MaxLength {
		v.fault(path, "%q is longer than %d", s, *n.MaxLength)
	}
	if n.Pattern != "" && !regexp.MustCompile(n.Pattern).MatchString(s) {
		v.fault(path, "%q does not match %s", s, n.Pattern)
	}
	switch n.Format {
	case "cidr":
		if _, err := netip.ParsePrefix(s); err != nil {
			v.fault(path, "%q is not a prefix such as 10.0.0.0/8", s)
		}
	case "date-time":
		if _, err := time.Parse(time.RFC3339, s); err != nil {
			v.fault(path, "%q is not a time (RFC 3339)", s)
		}
	}
}

func (v *validator) number(path string, n *node, x float64) {
	if n.Minimum != nil && x < *n.Minimum {
		v.fault(path, "%v is less than %v", x, *n.Minimum)
	}
	if n.Maximum != nil && x > *n.Maximum {
		v.fault(path, "%v is more than %v", x, *n.Maximum)
	}
	if n.Format == "int32" && (x < math.MinInt32 || x > math.MaxInt32) {
		v.fault(path, "%v does not fit 32 bits", x)
	}
}

func (v *validator) list(path string, n *node, list []any) {
	if n.MinItems != nil && len(list) < *n.MinItems {
		v.fault(path, "%d items are fewer than %d", len(list), *n.MinItems)
	}
	if n.MaxItems != nil && len(list) > *n.MaxItems {
		v.fault(path, "%d items are more than %d", len(list), *n.MaxItems)
	}
	seen := map[string]bool{}
	for i, e := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if n.Items != nil {
			v.value(at, n.Items, e)
		}
		key := n.itemKey(e)
		if key != "" && seen[key] {
			v.fault(at, "is there twice")
		}
		seen[key] = true
	}
}

// itemKey is equal for items of which a list may have only one.
func (n *node) itemKey(e any) string {
	switch n.ListType {
	case "set":
		return show(e)
	case "map":
		o, _ := e.(map[string]any)
		key := ""
		for _, k := range n.ListKeys {
			key += show(o[k]) + "\x00"
		}
		return key
	}
	return ""
}

func (v *validator) object(path string, n *node, o map[string]any) {
	o = n.withoutNulls(o)
	for _, name := range n.Required {
		if _, ok := o[name]; !ok {
			v.fault(join(path, name), "is required")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		sub := n.Properties[name]
		switch {
		case sub != nil:
			v.value(join(path, name), sub, o[name])
		case n.Additional != nil:
			v.value(join(path, name), n.Additional, o[name])
		case !n.Preserve && n.Type == "object" && !v.probe:
			v.fault(join(path, name), "unknown field")
		}
	}
	for _, r := range n.Rules {
		if !rules[r.Rule](o) {
			v.fault(path, "%s", r.Message)
		}
	}
}

// withoutNulls leaves out the fields that are null and may not be: the API
// server takes them for absent.
func (n *node) withoutNulls(o map[string]any) map[string]any {
	out := maps.Clone(o)
	maps.DeleteFunc(out, func(name string, value any) bool {
		sub := n.Properties[name]
		return value == nil && sub != nil && !sub.Nullable
	})
	return out
}

func (v *validator) alternatives(path string, n *node, value any) {
	if len(n.AnyOf) > 0 && !slices.ContainsFunc(n.AnyOf, func(a *node) bool { return fits(path, a, value) }) {
		v.fault(path, "%s matches none of the forms that are allowed here%s", show(value), needs(n.AnyOf))
	}
	if len(n.OneOf) == 0 {
		return
	}
	hits := 0
	for _, a := range n.OneOf {
		if fits(path, a, value) {
			hits++
		}
	}
	if hits != 1 {
		v.fault(path, "must match exactly one of the forms that are allowed here, and matches %d%s", hits, needs(n.OneOf))
	}
}

// needs names the fields that tell alternatives apart.
func needs(list []*node) string {
	var names []string
	for _, a := range list {
		names = append(names, a.Required...)
	}
	if len(names) == 0 {
		return ""
	}
	return " (by " + strings.Join(slices.Compact(slices.Sorted(slices.Values(names))), ", ") + ")"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func list(values []any) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = show(v)
	}
	return strings.Join(parts, ", ")
}

// show writes a value, shortened.
func show(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return "?"
	}
	const most = 60
	if len(text) > most {
		return string(text[:most]) + "..."
	}
	return string(text)
}
