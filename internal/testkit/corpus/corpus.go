// SPDX-License-Identifier: Apache-2.0

// Package corpus reads folders of policies with their verdicts, so that everything that judges can be held against them.
//
// A folder has cyclonus/cases (stories of NetworkPolicies, step by step),
// random and real (policies with matrices of verdicts). Each becomes
// situations: input for the engine, ends with addresses, and connections
// between them with what must become of them. A corpus is IPv4; for IPv6 every
// IPv4 address and prefix is moved into 64:ff9b::/96, in policies and pods
// alike, which changes no verdict.
package corpus

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"

	ciliumv2 "github.com/stentor-net/stentor/api/cilium/v2"
	"github.com/stentor-net/stentor/internal/identity"
	"github.com/stentor-net/stentor/internal/label"
	"github.com/stentor-net/stentor/internal/policy"
)

// Env names a folder of the same form as ours to read instead.
const Env = "STENTOR_POLICY_CORPUS"

// ErrNone says that there is no corpus here.
var ErrNone = errors.New("no verdict corpora: neither " + Env + " nor shared/data/policy beside the checkout")

// Files of a part of the corpus: "cyclonus/cases", "random" or "real".
func Files(part string) ([]string, error) {
	dir := os.Getenv(Env)
	if dir == "" {
		at, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		for {
			dir = filepath.Join(at, "shared", "data", "policy")
			if _, err := os.Stat(dir); err == nil {
				break
			}
			up := filepath.Dir(at)
			if up == at {
				return nil, ErrNone
			}
			at = up
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, part, "*.json"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%w: %s has no %s", ErrNone, dir, part)
	}
	return files, err
}

// Case is a file: situations that follow each other.
type Case struct {
	Name       string
	Options    policy.Options
	Situations []Situation
}

// Situation is a state of the cluster with verdicts.
type Situation struct {
	Input       policy.Input
	Ends        []End
	Connections []Connection
}

// End is one end of connections.
type End struct {
	Name     string
	Addr     netip.Addr // invalid: no packet can come from there
	Endpoint uint16     // 0: policy is not judged for it
	Identity identity.ID
}

// Connection says what must become of a packet. A verdict of 0 is not given.
type Connection struct {
	From, To                  int // of Ends
	Protocol                  uint8
	Port                      int
	Egress, Ingress, Combined byte
}

// Verdicts of a corpus.
const (
	Denied     = 'X'
	Allowed    = '.'
	Redirected = 'L'
)

// Letter of a verdict.
func Letter(v policy.Verdict) byte { return "X.L"[v] }

// Verdict of a letter.
func Verdict(letter byte) policy.Verdict {
	return policy.Verdict(max(0, strings.IndexByte("X.L", letter)))
}

var protocols = map[string]uint8{"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}

// family moves what a corpus says about IPv4 to a family.
type family int

// addr is an IPv4 address of the corpus in the family.
func (f family) addr(a netip.Addr) netip.Addr {
	if f == 4 || !a.Is4() {
		return a
	}
	b := netip.MustParseAddr("64:ff9b::").As16()
	four := a.As4()
	copy(b[12:], four[:])
	return netip.AddrFrom16(b)
}

func (f family) prefix(p netip.Prefix) netip.Prefix {
	if f == 4 || !p.Addr().Is4() {
		return p
	}
	return netip.PrefixFrom(f.addr(p.Addr()), p.Bits()+96)
}

// rewrite moves every string of a document that is an address or a prefix, and
// the entity of the other family.
func (f family) rewrite(raw json.RawMessage) json.RawMessage {
	if f == 4 {
		return raw
	}
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return raw // the policy is broken on purpose
	}
	out, err := json.Marshal(f.walk(doc))
	if err != nil {
		return raw
	}
	return out
}

func (f family) walk(v any) any {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			x[k] = f.walk(e)
		}
	case []any:
		for i, e := range x {
			x[i] = f.walk(e)
		}
	case string:
		if p, err := netip.ParsePrefix(x); err == nil && p.Addr().Is4() {
			return f.prefix(p.Masked()).String()
		}
		if a, err := netip.ParseAddr(x); err == nil && a.Is4() {
			return f.addr(a).String()
		}
		switch x {
		case identity.LabelWorldIPv4:
			return identity.LabelWorldIPv6
		case identity.LabelWorldIPv6:
			return identity.LabelWorldIPv4
		}
	}
	return v
}

// object decodes a policy as the watch would.
func object(raw json.RawMessage) (policy.Object, error) {
	var head struct {
		Kind     policy.Kind
		Metadata struct{ Name, Namespace string }
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return policy.Object{}, err
	}
	if head.Kind == "" {
		head.Kind = policy.KindNetworkPolicy // some of cyclonus leave it out
	}
	o := policy.Object{Kind: head.Kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name}
	switch head.Kind {
	case policy.KindNetworkPolicy:
		o.Spec = &networkingv1.NetworkPolicy{}
	case policy.KindCiliumNetworkPolicy:
		o.Spec = &ciliumv2.CiliumNetworkPolicy{}
	case policy.KindCiliumClusterwideNetworkPolicy:
		o.Spec = &ciliumv2.CiliumClusterwideNetworkPolicy{}
	default:
		return o, fmt.Errorf("kind %q", head.Kind)
	}
	if err := json.Unmarshal(raw, o.Spec); err != nil {
		o.Spec, o.Err = nil, err.Error()
	}
	return o, nil
}

func readJSON(file string, into any) error {
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// podLabels are the labels of a pod's identity.
func podLabels(namespace string, labels, namespaceLabels map[string]string) label.Set {
	list := []label.Label{
		{Source: label.SourceK8s, Key: label.KeyNamespace, Value: namespace},
		{Source: label.SourceK8s, Key: label.KeyCluster, Value: "default"},
	}
	for k, v := range labels {
		list = append(list, label.Label{Source: label.SourceK8s, Key: k, Value: v})
	}
	for k, v := range namespaceLabels {
		list = append(list, label.Label{Source: label.SourceK8s, Key: label.PrefixNamespaceKey + k, Value: v})
	}
	return label.NewSet(list...)
}

// own sets the address of a subject.
func own(s *policy.Subject, a policy.Address) {
	if a.Prefix.Addr().Is4() {
		s.IPv4 = a
	} else {
		s.IPv6 = a
	}
}

// Sample is every n-th of a list, never none.
func Sample[T any](list []T, n int) []T {
	var out []T
	for i := 0; i < len(list); i += max(1, n) {
		out = append(out, list[i])
	}
	return slices.Clip(out)
}
