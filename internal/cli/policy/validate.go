// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/deploy/crds"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/policy/schema"
	tracing "github.com/stentor-net/stentor/internal/policy/trace"
)

// ValidateOptions of `policy validate`.
type ValidateOptions struct {
	command.Streams
	AnyAgent func(context.Context) (*client.Client, error)

	Files   []string
	Live    bool
	Strict  bool
	Cluster string
	Output  command.Output
}

// NewCmdValidate makes `policy validate`.
func NewCmdValidate(f *command.Factory, runF func(context.Context, *ValidateOptions) error) *cobra.Command {
	o := &ValidateOptions{Streams: f.Streams, AnyAgent: f.AnyAgent}
	cmd := &cobra.Command{
		Use: "validate FILE...", Args: oneOrMore,
		Short: "Check policies in files, without applying them",
		Long: `Check policies in files, without applying them: - is standard input.

What the API server refuses is an error, and so is what agents would set aside.
What is allowed and hardly meant is a warning: a rule that can never match, a
prefix that covers pods, which CIDR rules do not match, and, where pods are known
from the files or with --live from the cluster, a selector that picks nobody or a
port name that no pod has.

The exit code is 1 if a policy is not valid; with --strict also for a warning.`,
		Example: `  stentor policy validate rule1.yaml
  stentor policy validate --live --strict *.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Files = args
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return validate(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.Live, "live", false, "ask an agent as well, which knows the pods of the cluster")
	flags.BoolVar(&o.Strict, "strict", false, "warnings are errors")
	flags.StringVar(&o.Cluster, "cluster-name", "default", "name of the cluster, without --live")
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

func oneOrMore(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return command.Usagef("%s needs at least one file", cmd.CommandPath())
	}
	return nil
}

// checked is what was found about one policy.
type checked struct {
	rest.ObjectFit

	Refused []string `json:"refused,omitempty"` // what the API server says
}

func (c *checked) ok() bool { return c.Valid && len(c.Refused) == 0 }

func validate(ctx context.Context, o *ValidateOptions) error {
	var files []file
	for _, name := range o.Files {
		text, err := readFile(o.Streams, name)
		if err != nil {
			return err
		}
		files = append(files, file{name, text})
	}
	all, err := readManifests(files)
	if err != nil {
		return err
	}
	if len(all.Policies) == 0 {
		return fmt.Errorf("the files hold no policy, only %s", cmp.Or(strings.Join(all.Others, ", "), "nothing that counts"))
	}
	fits, err := o.fits(ctx, files, all)
	if err != nil {
		return err
	}
	definitions, err := definitions()
	if err != nil {
		return err
	}
	refused := map[string][]string{}
	for i, p := range all.Policies {
		refused[p.Key()] = append(refused[p.Key()], refusals(definitions, p, all.Texts[i])...)
	}
	var list []checked
	for _, f := range fits {
		list = append(list, checked{f, refused[f.Object]})
	}
	return o.report(list)
}

// fits asks an agent, or judges by the files alone.
func (o *ValidateOptions) fits(ctx context.Context, files []file, all tracing.Manifest) ([]rest.ObjectFit, error) {
	if !o.Live {
		_, fits, err := tracing.FromManifest(o.Cluster, all)
		return fits, err
	}
	agent, err := o.AnyAgent(ctx)
	if err != nil {
		return nil, err
	}
	var q rest.ValidateRequest
	for _, f := range files {
		q.Manifests = append(q.Manifests, f.text)
	}
	var fits []rest.ObjectFit
	return fits, agent.Post(ctx, rest.PathPolicyValidate, q, &fits)
}

func (o *ValidateOptions) report(list []checked) error {
	bad, warnings := 0, 0
	for i := range list {
		if !list[i].ok() {
			bad++
		}
		warnings += len(list[i].Warnings)
	}
	var err error
	if o.Output.ForPeople() {
		for i := range list {
			if err = o.describe(&list[i]); err != nil {
				break
			}
		}
	} else {
		err = command.PrintObject(o.Streams, o.Output, list)
	}
	if err == nil && (bad > 0 || o.Strict && warnings > 0) {
		fmt.Fprintf(o.Err, "%d of %d policies are not valid, %d warnings\n", bad, len(list), warnings)
		return command.ErrSilent
	}
	return err
}

func (o *ValidateOptions) describe(c *checked) error {
	state, color := "valid", command.Green
	switch {
	case !c.ok():
		state, color = "not valid", command.Red
	case len(c.Warnings) > 0 || c.Reason != "":
		state, color = "valid, with warnings", command.Yellow
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", c.Object, o.Paint(color, state))
	for _, text := range c.Refused {
		fmt.Fprintf(&b, "  error: %s\n", text)
	}
	if c.Reason != "" {
		kind := "error"
		if c.Valid {
			kind = "warning"
		}
		fmt.Fprintf(&b, "  %s: %s\n", kind, c.Reason)
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(&b, "  warning: %s: %s\n", w.Path, w.Text)
	}
	_, err := fmt.Fprint(o.Out, b.String())
	return err
}

// definitions are those of our kinds, by kind.
func definitions() (map[policy.Kind]*schema.Definition, error) {
	out := map[policy.Kind]*schema.Definition{}
	for name, text := range crds.All() {
		d, err := schema.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[policy.Kind(d.Kind)] = d
	}
	return out, nil
}

// refusals are what the API server says against an object.
func refusals(known map[policy.Kind]*schema.Definition, p policy.Object, text json.RawMessage) []string {
	var out []string
	for _, problem := range validation.IsDNS1123Subdomain(p.Name) {
		out = append(out, "metadata.name: "+problem)
	}
	if p.Kind == policy.KindNetworkPolicy {
		return append(out, networkPolicyRefusals(text)...)
	}
	d := known[p.Kind]
	if d == nil {
		return out // defined by somebody else: agents say what they make of it
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		return append(out, err.Error())
	}
	version, _ := object["apiVersion"].(string)
	_, version, _ = strings.Cut(version, "/")
	for _, f := range d.Validate(version, object) {
		out = append(out, f.String())
	}
	return out
}

// networkPolicyRefusals are what the API server's own validation of the kind
// says, as far as agents do not say the same.
func networkPolicyRefusals(text json.RawMessage) []string {
	var np networkingv1.NetworkPolicy
	strict, err := kjson.UnmarshalStrict(text, &np)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range strict {
		out = append(out, e.Error())
	}
	spec := field.NewPath("spec")
	selector := func(at *field.Path, s *metav1.LabelSelector) {
		if s == nil {
			return
		}
		for _, e := range metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at) {
			out = append(out, e.Error())
		}
	}
	peers := func(at *field.Path, list []networkingv1.NetworkPolicyPeer) {
		for i := range list {
			p, at := &list[i], at.Index(i)
			if p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil {
				out = append(out, at.String()+": needs a peer")
			}
			selector(at.Child("podSelector"), p.PodSelector)
			selector(at.Child("namespaceSelector"), p.NamespaceSelector)
		}
	}
	selector(spec.Child("podSelector"), &np.Spec.PodSelector)
	for i := range np.Spec.Ingress {
		peers(spec.Child("ingress").Index(i).Child("from"), np.Spec.Ingress[i].From)
	}
	for i := range np.Spec.Egress {
		peers(spec.Child("egress").Index(i).Child("to"), np.Spec.Egress[i].To)
	}
	if len(np.Spec.PolicyTypes) > 2 {
		out = append(out, "spec.policyTypes: there are more than two")
	}
	for i, t := range np.Spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			out = append(out, fmt.Sprintf("spec.policyTypes[%d]: %q is not Ingress or Egress", i, t))
		}
	}
	return out
}
