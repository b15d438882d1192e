// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// TraceOptions of `policy trace`.
type TraceOptions struct {
	command.Streams
	Agents func(context.Context) ([]*client.Client, error)

	Source, Destination rest.TraceParty
	Port                string
	Family              int
	Files               []string
	Offline             bool
	Cluster             string // offline: name of the cluster
	Expect              string
	Output              command.Output
}

// NewCmdTrace makes `policy trace`.
func NewCmdTrace(f *command.Factory, runF func(context.Context, *TraceOptions) error) *cobra.Command {
	o := &TraceOptions{Streams: f.Streams, Agents: f.Agents}
	cmd := &cobra.Command{
		Use: "trace", Args: command.NoArgs,
		Short: "Say whether policy allows a connection, and why",
		Long: `Say whether policy allows a connection, and why.

Both directions are judged: egress by the policies that select the source,
ingress by those that select the destination, each by the agent of the pod's
node where it can be asked. A denial names the rule, or else the policies that
deny by default and the rules that would have allowed, with what is missing.

With --file policies are judged as if they were applied: an object that is
stored is replaced, others are added. With --offline nothing but the files
counts, which then have to hold the pods and namespaces, too.

Without --dport only what holds for every port counts.`,
		Example: `  stentor policy trace --src-pod default/xwing --dst-pod default/deathstar --dport 80
  stentor policy trace --src-pod default/xwing --dst-ip 10.96.0.10 --dport 53/UDP -o json
  stentor policy trace --src-label org=empire --dst-pod default/deathstar --dport 80 --file new.yaml
  stentor policy trace --offline --file all.yaml --src-pod default/a --dst-pod default/b --expect deny`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return err
			}
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return trace(cmd.Context(), o)
		},
	}
	o.addEnds(cmd, f)
	flags := cmd.Flags()
	flags.StringVar(&o.Port, "dport", "", "port of the destination: PORT[/PROTOCOL], or TYPE/ICMP (protocol TCP)")
	flags.IntVar(&o.Family, "family", 0, "4 or 6, if both ends have addresses of both families (default 4)")
	flags.StringSliceVarP(&o.Files, "file", "f", nil, "judge the policies of this file as if they were applied; - is standard input")
	flags.BoolVar(&o.Offline, "offline", false, "judge only what the files hold, without a cluster")
	flags.StringVar(&o.Cluster, "cluster-name", "default", "name of the cluster, with --offline")
	flags.StringVar(&o.Expect, "expect", "", "end with exit code 1 unless the verdict is this one: allow, deny, redirect")
	_ = cmd.RegisterFlagCompletionFunc("expect", cobra.FixedCompletions([]string{"allow", "deny", "redirect"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("family", cobra.FixedCompletions([]string{"4", "6"}, cobra.ShellCompDirectiveNoFileComp))
	o.Output.AddTo(cmd, command.Table, command.JSON, command.YAML)
	return cmd
}

// addEnds adds the flags that name source and destination.
func (o *TraceOptions) addEnds(cmd *cobra.Command, f *command.Factory) {
	for _, end := range []struct {
		prefix, what string
		party        *rest.TraceParty
	}{{"src", "source", &o.Source}, {"dst", "destination", &o.Destination}} {
		flags, p := cmd.Flags(), end.party
		flags.StringVar(&p.Pod, end.prefix+"-pod", "", end.what+": NAMESPACE/NAME of a pod")
		flags.StringVar(&p.Pod, end.prefix+"-k8s-pod", "", "the same as --"+end.prefix+"-pod")
		_ = flags.MarkHidden(end.prefix + "-k8s-pod")
		flags.StringVar(&p.IP, end.prefix+"-ip", "", end.what+": an address")
		flags.Int64Var(&p.Identity, end.prefix+"-identity", 0, end.what+": number of an identity")
		flags.StringSliceVar((*[]string)(&p.Labels), end.prefix+"-label", nil, end.what+": label KEY=VALUE of a pod that need not exist; namespace=NAME tells its namespace")
		_ = cmd.RegisterFlagCompletionFunc(end.prefix+"-pod", command.CompleteFlag(func(ctx context.Context) ([]string, error) { return podNames(ctx, f) }))
	}
}

// podNames are the pods of the nodes that can be asked.
func podNames(ctx context.Context, f *command.Factory) ([]string, error) {
	agents, err := f.Agents(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range agents {
		var list []rest.Endpoint
		if err := a.Get(ctx, rest.PathEndpoint, nil, &list); err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.Status != nil && e.Status.ExternalIdentifiers != nil && e.Status.ExternalIdentifiers.K8sPodName != "" {
				names = append(names, e.Status.ExternalIdentifiers.K8sNamespace+"/"+e.Status.ExternalIdentifiers.K8sPodName)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// verdictWords are the values of --expect.
var verdictWords = map[string]string{"allow": rest.TraceAllowed, "deny": rest.TraceDenied, "redirect": rest.TraceRedirected}

func (o *TraceOptions) validate() error {
	for _, end := range []struct {
		prefix string
		party  *rest.TraceParty
	}{{"src", &o.Source}, {"dst", &o.Destination}} {
		given := 0
		for _, have := range []bool{end.party.Pod != "", end.party.IP != "", end.party.Identity != 0, len(end.party.Labels) > 0} {
			if have {
				given++
			}
		}
		if given != 1 {
			return command.Usagef("give exactly one of --%[1]s-pod, --%[1]s-ip, --%[1]s-identity and --%[1]s-label", end.prefix)
		}
	}
	if _, ok := verdictWords[o.Expect]; !ok && o.Expect != "" {
		return command.Usagef("--expect %q is not one of allow, deny, redirect", o.Expect)
	}
	if o.Family != 0 && o.Family != 4 && o.Family != 6 {
		return command.Usagef("--family %d is not 4 or 6", o.Family)
	}
	if o.Offline && len(o.Files) == 0 {
		return command.Usagef("--offline needs --file with policies, pods and namespaces")
	}
	_, err := o.request()
	return err
}

// request is the question, without manifests.
func (o *TraceOptions) request() (rest.TraceRequest, error) {
	q := rest.TraceRequest{Source: o.Source, Destination: o.Destination, Family: o.Family, AnyPort: o.Port == ""}
	if o.Port == "" {
		return q, nil
	}
	port, protocol, _ := strings.Cut(o.Port, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return q, command.Usagef("--dport %q is not PORT or PORT/PROTOCOL", o.Port)
	}
	q.Port, q.Protocol = int(n), protocol
	return q, nil
}

func trace(ctx context.Context, o *TraceOptions) error {
	q, err := o.request()
	if err != nil {
		return err
	}
	var files []file
	for _, name := range o.Files {
		text, err := o.read(name)
		if err != nil {
			return err
		}
		files = append(files, file{name, text})
	}
	var result rest.TraceResult
	if o.Offline {
		result, err = offline(o.Cluster, files, q)
	} else {
		result, err = ask(ctx, o, files, q)
	}
	if err != nil {
		return err
	}
	if o.Output.ForPeople() {
		err = printTrace(o.Streams, result)
	} else {
		err = command.PrintObject(o.Streams, o.Output, result)
	}
	if err == nil && o.Expect != "" && result.Verdict != verdictWords[o.Expect] {
		fmt.Fprintf(o.Err, "expected %s, got %s\n", verdictWords[o.Expect], result.Verdict)
		return command.ErrSilent
	}
	return err
}

// file is a manifest.
type file struct{ name, text string }

func (o *TraceOptions) read(name string) (string, error) { return readFile(o.Streams, name) }

func readFile(s command.Streams, name string) (string, error) {
	if name == "-" {
		text, err := io.ReadAll(s.In)
		if err != nil {
			return "", fmt.Errorf("read standard input: %w", err)
		}
		return string(text), nil
	}
	text, err := os.ReadFile(name)
	return string(text), err
}

// ask asks an agent, and for a pod of another node that node's agent, too.
func ask(ctx context.Context, o *TraceOptions, files []file, q rest.TraceRequest) (rest.TraceResult, error) {
	agents, err := o.Agents(ctx)
	if err != nil {
		return rest.TraceResult{}, err
	}
	for _, f := range files {
		q.Manifests = append(q.Manifests, f.text)
	}
	var result rest.TraceResult
	if err := agents[0].Post(ctx, rest.PathPolicyTrace, q, &result); err != nil {
		return result, err
	}
	for _, side := range []struct {
		at   string
		mine **rest.TraceSide
		of   func(*rest.TraceResult) *rest.TraceSide
	}{
		{result.Source.Node, &result.Egress, func(r *rest.TraceResult) *rest.TraceSide { return r.Egress }},
		{result.Destination.Node, &result.Ingress, func(r *rest.TraceResult) *rest.TraceSide { return r.Ingress }},
	} {
		if *side.mine == nil || !(*side.mine).Elsewhere {
			continue
		}
		for _, a := range agents {
			var theirs rest.TraceResult
			if a.Node() != side.at {
				continue
			}
			if err := a.Post(ctx, rest.PathPolicyTrace, q, &theirs); err != nil {
				fmt.Fprintf(o.Err, "node %s: %v\n", side.at, err)
			} else if s := side.of(&theirs); s != nil {
				*side.mine = s
			}
		}
	}
	conclude(&result)
	return result, nil
}
