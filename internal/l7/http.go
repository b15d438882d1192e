// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
)

// HTTPRequest is what rules see of a request. Its bytes are the reader's: they
// hold during the call.
type HTTPRequest struct {
	Method []byte
	// Path is the target in the form that is sent on, with the query; empty for CONNECT.
	Path []byte
	// Host is the authority as it was sent, with the port if there is one.
	Host   []byte
	Fields []Field
}

// Field is a header field. Names compare without case.
type Field struct{ Name, Value []byte }

// EditKind is what a rule does to a field.
type EditKind uint8

// Edits of a request.
const (
	NoEdit  EditKind = iota // it was not as the rule says, and passes
	Append                  // a further field
	Remove                  // every field of the name
	Replace                 // every field of the name, by one
)

// Edit is a field of an allowed request that was not as a rule wants it, and
// what to do about it. Value may be secret: it is for the server alone.
type Edit struct {
	Kind        EditKind
	Name, Value string
}

// httpRule is one rule. All parts must match.
type httpRule struct {
	method, path, host pattern
	fields             []fieldRule
}

// fieldRule wants a field. Several fields of the name count as one, joined by commas.
type fieldRule struct {
	name  string
	value string // empty: it is there
	fails bool   // the request does not match without it
	edit  EditKind
}

func (s *Set) addHTTP(rules []ciliumv2.HTTPRule, secrets Secrets) error {
	if len(rules) == 0 {
		s.All = true
	}
	var errs []error
	for i := range rules {
		r, err := compileHTTP(&rules[i], secrets)
		if err != nil {
			errs = append(errs, fmt.Errorf("http[%d]: %w", i, err))
			continue
		}
		edits := false
		for _, f := range r.fields {
			edits = edits || !f.fails
		}
		if r.method.kind == matchAll && r.path.kind == matchAll && r.host.kind == matchAll && len(r.fields) == 0 {
			s.All = true
			continue
		}
		s.rewrite = s.rewrite || edits
		s.http = append(s.http, r)
	}
	return errors.Join(errs...)
}

func compileHTTP(in *ciliumv2.HTTPRule, secrets Secrets) (r httpRule, err error) {
	if r.method, err = compilePattern(in.Method, false); err != nil {
		return r, fmt.Errorf("method: %w", err)
	}
	if r.path, err = compilePattern(in.Path, false); err != nil {
		return r, fmt.Errorf("path: %w", err)
	}
	if r.host, err = compilePattern(in.Host, true); err != nil {
		return r, fmt.Errorf("host: %w", err)
	}
	for i, text := range in.Headers {
		name, value, _ := strings.Cut(text, " ")
		f := fieldRule{name: strings.TrimRight(name, ":"), value: strings.Trim(value, " \t"), fails: true}
		if err := f.check(); err != nil {
			return r, fmt.Errorf("headers[%d]: %w", i, err)
		}
		r.fields = append(r.fields, f)
	}
	for i := range in.HeaderMatches {
		f, err := compileHeaderMatch(&in.HeaderMatches[i], secrets)
		if err != nil {
			return r, fmt.Errorf("headerMatches[%d]: %w", i, err)
		}
		r.fields = append(r.fields, f)
	}
	return r, nil
}

func compileHeaderMatch(in *ciliumv2.HeaderMatch, secrets Secrets) (fieldRule, error) {
	f := fieldRule{name: in.Name, value: in.Value}
	switch in.Mismatch {
	case "":
		f.fails = true
	case "LOG":
	case "ADD":
		f.edit = Append
	case "DELETE":
		f.edit = Remove
	case "REPLACE":
		f.edit = Replace
	default:
		return f, fmt.Errorf("mismatch %q is unknown", in.Mismatch)
	}
	if in.Secret != nil {
		value, err := secretValue(in.Secret, secrets)
		if err != nil {
			return f, err
		}
		f.value = value
	}
	if err := f.check(); err != nil {
		return f, err
	}
	if f.value == "" && (f.edit == Append || f.edit == Replace) {
		return f, fmt.Errorf("mismatch %s needs a value", in.Mismatch)
	}
	return f, nil
}

// secretValue is the only value of a Secret.
func secretValue(in *ciliumv2.Secret, secrets Secrets) (string, error) {
	if secrets == nil {
		return "", fmt.Errorf("secret %q: no secrets are available", in.Name)
	}
	data, err := secrets(in.Namespace, in.Name)
	if err != nil {
		return "", fmt.Errorf("secret %q: %w", in.Name, err)
	}
	if len(data) != 1 {
		return "", fmt.Errorf("secret %q has %d values, but must have one", in.Name, len(data))
	}
	for _, value := range data {
		if len(value) == 0 {
			break
		}
		return string(value), nil
	}
	return "", fmt.Errorf("secret %q is empty", in.Name)
}

// framing fields belong to the proxy: no rule may change them.
var framing = []string{"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "http2-settings", "expect"}

// check tells whether the field can be in a message. Errors hold no value.
func (f *fieldRule) check() error {
	if f.name == "" || strings.ContainsFunc(f.name, func(r rune) bool { return !tokenRune(r) }) {
		return fmt.Errorf("%q is not the name of a header", f.name)
	}
	for i := range len(f.value) {
		if c := f.value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("the value for %s has characters that no header may have", f.name)
		}
	}
	if f.value != strings.Trim(f.value, " \t") {
		return fmt.Errorf("the value for %s begins or ends with a blank", f.name)
	}
	for _, name := range framing {
		if f.edit != NoEdit && strings.EqualFold(name, f.name) {
			return fmt.Errorf("%s belongs to the connection and cannot be changed", f.name)
		}
	}
	return nil
}

func tokenRune(r rune) bool {
	return r > ' ' && r < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

// HTTP tells whether the rules allow a request, and appends to edits what rules
// that allow it do to it. It allocates only to grow edits.
func (s *Set) HTTP(r *HTTPRequest, edits []Edit) (bool, []Edit) {
	if s.All && !s.rewrite {
		return true, edits
	}
	allowed := s.All
	for i := range s.http {
		rule := &s.http[i]
		if !rule.method.match(r.Method) || !rule.path.match(r.Path) || !rule.host.match(r.Host) || !rule.wanted(r.Fields) {
			continue
		}
		allowed = true
		if !s.rewrite {
			break
		}
		edits = rule.edits(r.Fields, edits)
	}
	return allowed, edits
}

// wanted tells whether every field is there that must be.
func (r *httpRule) wanted(fields []Field) bool {
	for i := range r.fields {
		if r.fields[i].fails && !r.fields[i].match(fields) {
			return false
		}
	}
	return true
}

func (r *httpRule) edits(fields []Field, edits []Edit) []Edit {
	for i := range r.fields {
		if f := &r.fields[i]; !f.fails && !f.match(fields) {
			edits = append(edits, Edit{f.edit, f.name, f.value})
		}
	}
	return edits
}

// match compares the joined values in constant time for values of one length:
// the expected one may be secret.
func (f *fieldRule) match(fields []Field) bool {
	rest, same, found := f.value, 1, false
	for i := range fields {
		if !fields[i].Is(f.name) {
			continue
		}
		if f.value == "" {
			return true
		}
		if found {
			if rest == "" || rest[0] != ',' {
				return false
			}
			rest = rest[1:]
		}
		found = true
		v := fields[i].Value
		if len(v) > len(rest) {
			return false
		}
		for j := range v {
			same &= subtle.ConstantTimeByteEq(v[j], rest[j])
		}
		rest = rest[len(v):]
	}
	return found && rest == "" && same == 1
}

// Is compares the name without case.
func (f *Field) Is(name string) bool { return equalFold(f.Name, name) }

// equalFold compares without the case of ASCII letters.
func equalFold(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if c != b[i] && lower(c) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}
