// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	flowpb "github.com/stentor-net/stentor/api/flow"
	observerpb "github.com/stentor-net/stentor/api/observer"
	"github.com/stentor-net/stentor/internal/cli/command"
	"github.com/stentor-net/stentor/internal/flow"
	serve "github.com/stentor-net/stentor/internal/observe"
)

// node serves records as a node does.
func node(t *testing.T, name string, records ...*flow.Record) server {
	t.Helper()
	s := &serve.Server{Ring: flow.NewRing(100), Wire: &flow.Wire{Node: "default/" + name}, Cluster: "default", Started: time.Now()}
	for _, r := range records {
		s.Ring.Add(r)
	}
	path := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = serve.Serve(ctx, serve.Listen{Socket: path}, s, nil) }()
	t.Cleanup(func() { cancel(); <-done })
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	return server{name: "node " + name, conn: conn}
}

var (
	xwing = flow.NewParty(&flowpb.Endpoint{Namespace: "default", PodName: "xwing", Identity: 300, Labels: []string{"k8s:org=alliance"}}, nil, "")
	star  = flow.NewParty(&flowpb.Endpoint{Namespace: "default", PodName: "deathstar", Identity: 301}, nil, "")
	world = flow.NewParty(&flowpb.Endpoint{Identity: 2, Labels: []string{"reserved:world"}}, []string{"example.com"}, "")
)

func tcp(second int, from, to *flow.Party, port uint16) *flow.Record {
	return &flow.Record{
		Time: time.Date(2026, 1, 2, 3, 4, second, 5e6, time.Local).UnixNano(), Source: netip.MustParseAddrPort("10.0.1.3:40000"),
		Destination: netip.AddrPortFrom(netip.MustParseAddr("fd00::7"), port), SourceParty: from, DestinationParty: to,
		Protocol: 6, TCPFlags: 2, Type: flow.TypeVerdict, Verdict: flowpb.Verdict_FORWARDED, MatchType: flow.MatchL3L4, Flags: flow.FlagEgress | flow.FlagReplyKnown,
	}
}

func denied(second int) *flow.Record {
	r := tcp(second, xwing, star, 80)
	r.Type, r.Verdict, r.Reason, r.Flags, r.Merged = flow.TypeDrop, flowpb.Verdict_DROPPED, 133, flow.FlagIngress, 4
	r.Cause = &flow.Cause{IngressDeniedBy: []*flowpb.Policy{{Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "rule1"}}}
	return r
}

// observe runs the command against two nodes.
func observe(t *testing.T, args ...string) (out, talk string, err error) {
	t.Helper()
	reply := tcp(2, star, xwing, 1)
	reply.Type, reply.Point, reply.Flags = flow.TypeTrace, 0, flow.FlagReply|flow.FlagReplyKnown
	l7 := tcp(4, xwing, world, 80)
	l7.Type = flow.TypeL7
	l7.L7 = &flowpb.Layer7{Type: flowpb.L7FlowType_REQUEST, Record: &flowpb.Layer7_Http{Http: &flowpb.HTTP{Method: "PUT", Url: "http://deathstar/v1/exhaust-port", Protocol: "HTTP/1.1"}}}
	var stdout, stderr bytes.Buffer
	f := &command.Factory{Streams: command.Streams{Out: &stdout, Err: &stderr}}
	cmd := NewCmd(f, func(ctx context.Context, o *Options) error {
		o.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local) }
		o.connect = func(context.Context) ([]server, error) {
			return []server{node(t, "n1", tcp(1, xwing, star, 80), denied(3)), node(t, "n2", reply, l7)}, nil
		}
		return o.run(ctx)
	})
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func TestFlowsOfAllNodesComeInOrderOfTime(t *testing.T) {
	for args, want := range map[string]string{
		"": `Jan  2 03:04:01.005: default/xwing:40000 (ID:300) -> default/deathstar:80 (ID:301) policy-verdict:L3-L4 EGRESS FORWARDED (TCP Flags: SYN)
Jan  2 03:04:02.005: default/xwing:1 (ID:300) <- default/deathstar:40000 (ID:301) to-endpoint FORWARDED (TCP Flags: SYN)
Jan  2 03:04:03.005: default/xwing:40000 (ID:300) <> default/deathstar:80 (ID:301) Policy denied DROPPED (TCP Flags: SYN [5 times])
Jan  2 03:04:04.005: default/xwing:40000 (ID:300) -> example.com:80 (world) http-request FORWARDED (HTTP/1.1 PUT http://deathstar/v1/exhaust-port)
`,
		"--last 1 --print-node-name": `Jan  2 03:04:04.005 [default/n2]: default/xwing:40000 (ID:300) -> example.com:80 (world) http-request FORWARDED (HTTP/1.1 PUT http://deathstar/v1/exhaust-port)
`,
		"--first 1 --ip-translation=false --print-identities=false": `Jan  2 03:04:01.005: 10.0.1.3:40000 -> [fd00::7]:80 policy-verdict:L3-L4 EGRESS FORWARDED (TCP Flags: SYN)
`,
		"--verdict dropped --print-policy-names --time-format RFC3339Milli -o dict": "   TIMESTAMP: " + time.Date(2026, 1, 2, 3, 4, 3, 5e6, time.Local).Format("2006-01-02T15:04:05.000Z07:00") + `
      SOURCE: default/xwing:40000 (ID:300)
 DESTINATION: default/deathstar:80 (ID:301)
        TYPE: Policy denied
     VERDICT: DROPPED
     SUMMARY: TCP Flags: SYN [5 times]; ingress denied by CiliumNetworkPolicy default/rule1
`,
		"--since 2s -o table": `TIMESTAMP             SOURCE                         DESTINATION                     TYPE            VERDICT     SUMMARY
Jan  2 03:04:03.005   default/xwing:40000 (ID:300)   default/deathstar:80 (ID:301)   Policy denied   DROPPED     TCP Flags: SYN [5 times]
Jan  2 03:04:04.005   default/xwing:40000 (ID:300)   example.com:80 (world)          http-request    FORWARDED   HTTP/1.1 PUT http://deathstar/v1/exhaust-port
`,
	} {
		out, talk, err := observe(t, strings.Fields(args)...)
		if err != nil || out != want || talk != "" {
			t.Errorf("observe %s: %v\n%s%s\nwant:\n%s", args, err, out, talk, want)
		}
	}
}

func TestJSONIsOneObjectALine(t *testing.T) {
	out, _, err := observe(t, "-o", "json", "--last", "1")
	if err != nil {
		t.Fatal(err)
	}
	var e observerpb.ExportEvent
	if err := protojson.Unmarshal([]byte(out), &e); err != nil || e.GetFlow().GetL7().GetHttp().GetMethod() != "PUT" || e.GetNodeName() != "default/n2" {
		t.Errorf("%v in %s", err, out)
	}
}

func TestFlagsMakeFilters(t *testing.T) {
	for args, want := range map[string]string{
		"--pod default/xwing --verdict DROPPED": `allowlist:
    - '{"source_pod":["default/xwing"],"verdict":["DROPPED"]}'
    - '{"destination_pod":["default/xwing"],"verdict":["DROPPED"]}'
`,
		"--from-pod a,b --to-port 80 --to-port 90": `allowlist:
    - '{"source_pod":["a","b"],"destination_port":["80","90"]}'
`,
		"-n red --to-pod x": `allowlist:
    - '{"source_pod":["red/"],"destination_pod":["red/x"]}'
    - '{"destination_pod":["red/x"]}'
`,
		"--not --to-namespace kube-system --not --protocol udp -t drop": `allowlist:
    - '{"event_type":[{"type":1}]}'
denylist:
    - '{"protocol":["udp"]}'
    - '{"destination_pod":["kube-system/"]}'
`,
		"-t trace:to-endpoint -t from-host -4 --from-identity world --tcp-flags SYN,ACK": `allowlist:
    - '{"event_type":[{"type":4,"match_sub_type":true},{"type":4,"match_sub_type":true,"sub_type":7}],"source_identity":[2],"tcp_flags":[{"SYN":true,"ACK":true}],"ip_version":["IPv4"]}'
`,
		"--from-label app=a,b!=c --http-header X:1": `allowlist:
    - '{"source_label":["app=a,b!=c"],"http_header":[{"key":"X","value":"1"}]}'
`,
	} {
		out, _, err := observe(t, append(strings.Fields(args), "--print-raw-filters")...)
		if out = strings.ReplaceAll(strings.ReplaceAll(out, ", ", ","), ": ", ":"); err != nil || out != strings.ReplaceAll(want, ": ", ":") {
			t.Errorf("observe %s: %v\n%s\nwant:\n%s", args, err, out, want)
		}
	}
}

func TestAFlagThatMakesNoSenseIsNamed(t *testing.T) {
	for args, want := range map[string]string{
		"--verdict perhaps":      `"perhaps" is none of FORWARDED, DROPPED`,
		"--type wind":            `"wind" is none of drop`,
		"--type trace:moon":      `trace has no "moon"`,
		"--first 1 --last 1":     "exclude each other",
		"--first 1 -f":           "exclude each other",
		"--since yesterday":      "neither a duration",
		"--from-identity nobody": "neither the number of an identity",
		"--tcp-flags ZYN":        `"ZYN" is none of SYN`,
		"--namespace a/b":        "is no namespace",
		"--not":                  "--not has no flag after it",
		"--field-mask verdict":   "needs -o json",
		"--time-format noon":     "is unknown",
		"--to-port http":         `destination_port: "http": is no port`,
		"--http-header X":        "is not key:value",
	} {
		_, talk, err := observe(t, strings.Fields(args)...)
		if err == nil || !strings.Contains(fmt.Sprint(err, talk), want) {
			t.Errorf("observe %s: %v %s, want %q", args, err, talk, want)
		}
	}
}
