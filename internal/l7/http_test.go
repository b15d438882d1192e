// SPDX-License-Identifier: Apache-2.0

package l7

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func line(rules string) string { return `{"rules":{"http":[` + rules + `]}}` }

func request(method, host, path string, fields ...string) *HTTPRequest {
	r := &HTTPRequest{Method: []byte(method), Host: []byte(host), Path: []byte(path)}
	for i := 0; i < len(fields); i += 2 {
		r.Fields = append(r.Fields, Field{[]byte(fields[i]), []byte(fields[i+1])})
	}
	return r
}

func TestRulesAllowWhatMatchesAllPartsOfOne(t *testing.T) {
	for _, x := range []struct {
		rules string
		r     *HTTPRequest
		want  bool
	}{
		{`{"method":"GET","path":"/a"}`, request("GET", "h", "/a"), true},
		{`{"method":"GET","path":"/a"}`, request("GET", "h", "/ab"), false},
		{`{"method":"GET","path":"/a"}`, request("GET", "h", "/a?x"), false},
		{`{"method":"GET","path":"/a"}`, request("get", "h", "/a"), false},
		{`{"method":"GET","path":"/a"},{"method":"PUT"}`, request("PUT", "h", "/b"), true},
		{`{"path":"a"}`, request("GET", "h", "/a"), false},
		{`{"path":"/a|/b"}`, request("GET", "h", "/b"), true},
		{`{"path":"/a|/b"}`, request("GET", "h", "/bc"), false},
		{`{"path":"^/a$"}`, request("GET", "h", "/a"), true},
		{`{"path":"/v[0-9]+/x"}`, request("GET", "h", "/v12/x"), true},
		{`{"path":"/v[0-9]+/x"}`, request("GET", "h", "/v12/xy"), false},
		{`{"path":"/public/.*"}`, request("GET", "h", "/public/"), true},
		{`{"path":"/public/.+"}`, request("GET", "h", "/public/"), false},
		{`{"path":"/[[:alpha:]]+"}`, request("GET", "h", "/abc"), true},
		{`{"host":"Good.example"}`, request("GET", "gOOD.example", "/"), true},
		{`{"host":"good.example"}`, request("GET", "good.example:80", "/"), false},
		{`{"host":".*\\.example"}`, request("GET", "a.EXAMPLE", "/"), true},
		{`{"headers":["X-Role"]}`, request("GET", "h", "/", "x-role", ""), true},
		{`{"headers":["X-Role"]}`, request("GET", "h", "/"), false},
		{`{"headers":["X-Role admin"]}`, request("GET", "h", "/", "X-ROLE", "admin"), true},
		{`{"headers":["X-Role: admin"]}`, request("GET", "h", "/", "X-Role", "admin"), true},
		{`{"headers":["X-Role admin"]}`, request("GET", "h", "/", "X-Role", "Admin"), false},
		{`{"headers":["X-Role admin"]}`, request("GET", "h", "/", "X-Role", "user", "X-Role", "admin"), false},
		{`{"headers":["X-Role user,admin"]}`, request("GET", "h", "/", "X-Role", "user", "X-Role", "admin"), true},
		{`{"headers":["X-Role a b"]}`, request("GET", "h", "/", "X-Role", "a b"), true},
		{`{"headerMatches":[{"name":"K","value":"v"}]}`, request("GET", "h", "/", "K", "w"), false},
		{`{"headerMatches":[{"name":"K"}]}`, request("GET", "h", "/", "k", "w"), true},
		{`{"headerMatches":[{"name":"K","value":"v","mismatch":"LOG"}]}`, request("GET", "h", "/"), true},
		{`{"method":"GET","headerMatches":[{"name":"K","value":"v","mismatch":"LOG"}]}`, request("PUT", "h", "/"), false},
		{`{}`, request("PUT", "h", "/"), true},
		{``, request("PUT", "h", "/"), true},
	} {
		s, err := Compile(1, []string{line(x.rules)}, nil)
		if err != nil {
			t.Errorf("%s: %v", x.rules, err)
		}
		if got, _ := s.HTTP(x.r, nil); got != x.want || s.Protocol != ProtocolHTTP {
			t.Errorf("%s: %s %s%s %s: %v", x.rules, x.r.Method, x.r.Host, x.r.Path, x.r.Fields, got)
		}
	}
}

func TestLinesAreOred(t *testing.T) {
	a, b := line(`{"path":"/a"}`), line(`{"path":"/b"}`)
	for _, x := range []struct {
		lines    []string
		allowsB  bool
		all      bool
		protocol Protocol
	}{
		{[]string{a}, false, false, ProtocolHTTP},
		{[]string{a, b}, true, false, ProtocolHTTP},
		{[]string{Everything, a}, true, true, ProtocolHTTP},
		{[]string{Everything}, true, true, None},
		{[]string{`{}`}, true, true, None},
		{nil, false, false, ProtocolOther},
	} {
		s, err := Compile(1, x.lines, nil)
		if err != nil {
			t.Errorf("%q: %v", x.lines, err)
		}
		if ok, _ := s.HTTP(request("GET", "h", "/b"), nil); ok != x.allowsB || s.All != x.all || s.Protocol != x.protocol {
			t.Errorf("%q: %v %+v", x.lines, ok, s)
		}
	}
}

func TestWhatDoesNotCompileAllowsNothing(t *testing.T) {
	secret := func(_, name string) (map[string][]byte, error) {
		switch name {
		case "two":
			return map[string][]byte{"a": []byte("hush1"), "b": []byte("hush2")}, nil
		case "line":
			return map[string][]byte{"a": []byte("hush\r\nX: y")}, nil
		case "empty":
			return map[string][]byte{"a": nil}, nil
		}
		return nil, errors.New("not found")
	}
	for _, bad := range []string{
		`{"path":"/("}`, `{"method":"*"}`, `{"host":"["}`, `{"path":"/a)(b"}`, `{"path":"\\1"}`, `{"path":"/a{1,9999}"}`,
		`{"headers":["a b:c","X(Y"]}`, `{"headers":[""]}`, `{"headerMatches":[{"name":"K","mismatch":"FOO"}]}`,
		`{"headerMatches":[{"name":"K","mismatch":"ADD"}]}`, `{"headerMatches":[{"name":"Host","value":"x","mismatch":"REPLACE"}]}`,
		`{"headerMatches":[{"name":"content-length","value":"1","mismatch":"ADD"}]}`,
		`{"headerMatches":[{"name":"K","value":"a\nb"}]}`,
		`{"headerMatches":[{"name":"K","secret":{"name":"none"}}]}`, `{"headerMatches":[{"name":"K","secret":{"name":"two"}}]}`,
		`{"headerMatches":[{"name":"K","secret":{"name":"line"}}]}`, `{"headerMatches":[{"name":"K","value":"v","secret":{"name":"empty"},"mismatch":"LOG"}]}`,
	} {
		s, err := Compile(1, []string{line(bad + `,{"path":"/good"}`)}, secret)
		if err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: error %v", bad, err)
		}
		if ok, _ := s.HTTP(request("GET", "h", "/x", "K", "v"), nil); ok {
			t.Errorf("%s allows", bad)
		}
		if ok, _ := s.HTTP(request("GET", "h", "/good"), nil); !ok {
			t.Errorf("%s: its neighbour does not count", bad)
		}
	}
	for _, bad := range []string{
		`{`, `{"rules":{"http":3}}`, `{"serverNames":["a"],"rules":{"http":[{}]}}`, `{"terminatingTLS":{"secret":{"name":"a"}},"rules":{"http":[]}}`,
		`{"originatingTLS":{"secret":{"name":"a"}}}`, `{"rules":{"l7proto":"x"}}`, `{"listener":{"name":"x"}}`,
	} {
		s, err := Compile(1, []string{bad}, nil)
		if ok, _ := s.HTTP(request("GET", "h", "/"), nil); err == nil || ok || s.Protocol == None {
			t.Errorf("%s: %v, %v, %+v", bad, err, ok, s)
		}
	}
	s, err := Compile(1, []string{Everything, line(`{}`), `{"rules":{"dns":[{"matchPattern":"*"}]}}`}, nil)
	if ok, _ := s.HTTP(request("GET", "h", "/"), nil); err == nil || ok {
		t.Errorf("two protocols: %v, %v", err, ok)
	}
}

func TestEveryRuleThatAllowsEdits(t *testing.T) {
	secrets := func(namespace, name string) (map[string][]byte, error) {
		return map[string][]byte{"any": []byte(namespace + "/" + name)}, nil
	}
	s, err := Compile(1, []string{
		Everything,
		line(`{"path":"/a","headerMatches":[{"name":"K","secret":{"namespace":"n","name":"s"},"value":"no","mismatch":"REPLACE"},{"name":"L","value":"l","mismatch":"LOG"}]}`),
		line(`{"method":"GET","headerMatches":[{"name":"M","value":"m","mismatch":"DELETE"}]}`),
	}, secrets)
	if err != nil {
		t.Fatal(err)
	}
	ok, edits := s.HTTP(request("GET", "h", "/a", "K", "no"), nil)
	want := []Edit{{Replace, "K", "n/s"}, {NoEdit, "L", "l"}, {Remove, "M", "m"}}
	if !ok || len(edits) != 3 || edits[0] != want[0] || edits[1] != want[1] || edits[2] != want[2] {
		t.Errorf("%v %v", ok, edits)
	}
	if ok, edits = s.HTTP(request("PUT", "h", "/a", "K", "n/s", "L", "l"), nil); !ok || len(edits) != 0 {
		t.Errorf("%v %v", ok, edits)
	}
}

// FuzzPattern: the short ways say what the expression says.
func FuzzPattern(f *testing.F) {
	for _, e := range []string{"/a", "/public/.*", "GET|PUT|POST", "/(a|b)/?.+", "^/x$", "a?b?", "[a-c]x", "\\Qa.b", "\\Qa)|.*", "(?i)a", "(?s).*", ".*", ".+", "x*", "a||b"} {
		f.Add(e, "/public/a", false)
	}
	f.Fuzz(func(t *testing.T, expression, text string, fold bool) {
		if strings.ContainsAny(text, "\n\r") || expression == "" {
			return
		}
		p, err := compilePattern(expression, fold)
		flags := ""
		if fold {
			flags = "(?i)"
		}
		want, bad := regexp.Compile(flags + expression)
		if (err == nil) != (bad == nil) && bad == nil && !strings.Contains(err.Error(), "invalid repeat count") && !strings.Contains(err.Error(), "too large") {
			t.Fatalf("%q: %v, and %v", expression, err, bad)
		}
		if err != nil {
			return
		}
		if fold && (!ascii(expression) || !ascii(text)) {
			return // letters fold in ASCII alone where the short way is taken
		}
		want.Longest()
		loc := want.FindStringIndex(text)
		whole := loc != nil && loc[0] == 0 && loc[1] == len(text)
		if got := p.match([]byte(text)); got != whole {
			t.Errorf("%q on %q: %v (%+v)", expression, text, got, p)
		}
	})
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

func BenchmarkMatch(b *testing.B) {
	for name, rules := range map[string]string{
		"words":      `{"method":"POST","path":"/v1/request-landing"}`,
		"prefix":     `{"method":"GET|HEAD","path":"/public/.*"},{"method":"POST","path":"/v1/.*"}`,
		"expression": `{"path":"/v[0-9]+/[a-z]*-landing"}`,
		"header":     `{"path":"/v1/.*","headers":["X-Role admin"]}`,
	} {
		s, err := Compile(1, []string{line(rules)}, nil)
		if err != nil {
			b.Fatal(err)
		}
		r := request("POST", "deathstar.default.svc", "/v1/request-landing", "User-Agent", "curl/7.88.1", "Accept", "*/*", "X-Role", "admin")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ok, _ := s.HTTP(r, nil); !ok {
					b.Fatal("denied")
				}
			}
		})
	}
}
