// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/policy"
)

func get[T any](t *testing.T, l *lab, path string) T {
	t.Helper()
	var out T
	if err := l.client.Call(t.Context(), "GET", path, nil, &out); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	return out
}

func TestAnEndpointIsFoundByEveryNameItHas(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl", "pod-template-hash", "1")
	l.bind(p)
	added := l.mustAdd(p)
	for _, id := range []string{"pod-name:default:curl", "pod-name:default/curl", "container-id:c-curl", "ipv4:10.0.1.2", "10.0.1.2", "fd00:1::2"} {
		e := get[rest.Endpoint](t, l, rest.PathEndpointID+id)
		if e.ID != int64(added.EndpointID) || e.Status.Networking.Addressing[0].IPv4 != "10.0.1.2" {
			t.Errorf("%s: got %+v", id, e)
		}
	}
	e := get[rest.Endpoint](t, l, rest.PathEndpointID+"10.0.1.2")
	if e.Status.State != "ready" || e.Status.Policy.Realized.PolicyEnabled != "none" || !slices.Equal(e.Status.Labels.Disabled, rest.Labels{"k8s:pod-template-hash=1"}) {
		t.Errorf("got %+v", e.Status)
	}
	if h := get[rest.EndpointHealth](t, l, rest.PathEndpointID+"10.0.1.2/healthz"); h.OverallHealth != "OK" {
		t.Errorf("health %+v", h)
	}
	if list := get[[]rest.Endpoint](t, l, rest.PathEndpoint+"?labels=k8s:app=curl"); len(list) != 1 {
		t.Errorf("by label: %v", list)
	}
	if list := get[[]rest.Endpoint](t, l, rest.PathEndpoint+"?labels=app=other"); len(list) != 0 {
		t.Errorf("by another label: %v", list)
	}
	err := l.client.Call(t.Context(), "GET", rest.PathEndpointID+"9999", nil, nil)
	if err == nil || err.Error() != "there is no endpoint 9999 on this node" {
		t.Errorf("got %v", err)
	}
}

func TestIdentitiesAndAddressesCanBeLookedUp(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	l.bind(p)
	added := l.mustAdd(p)
	if id := get[rest.Identity](t, l, rest.PathIdentityID+"1"); !slices.Equal(id.Labels, rest.Labels{"reserved:host"}) {
		t.Errorf("identity 1: %+v", id)
	}
	all := get[[]rest.Identity](t, l, rest.PathIdentity)
	if !slices.ContainsFunc(all, func(i rest.Identity) bool { return i.ID == added.Identity }) {
		t.Errorf("identity %d is not in the list", added.Identity)
	}
	if n := get[[]rest.IdentityEndpoints](t, l, rest.PathIdentityID+"endpoints"); len(n) != 1 || n[0].RefCount != 1 {
		t.Errorf("got %+v", n)
	}
	ips := get[[]rest.IPListEntry](t, l, rest.PathIP+"?cidr="+url.QueryEscape("10.0.1.2/32"))
	if len(ips) != 1 || ips[0].Identity != added.Identity || ips[0].Metadata.Name != "curl" {
		t.Errorf("got %+v", ips)
	}
}

func TestStatusSaysWhatIsMissingAndWhy(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl")
	l.bind(p)
	l.mustAdd(p)
	foreign := pod("foreign")
	foreign.IPs = addrs("192.168.0.9")
	host := pod("host")
	host.HostNetwork = true
	l.bind(foreign)
	l.bind(host)
	l.await("every part works", func() bool { return get[rest.StatusResponse](t, l, rest.PathHealthz).Cilium.State == rest.StateOk })
	s := get[rest.StatusResponse](t, l, rest.PathHealthz).Stentor
	if s.Pods.Managed != 1 || s.Pods.Total != 2 || s.Pods.HostNetwork != 1 || !slices.Equal(s.Pods.Unmanaged, []string{"default/foreign"}) || !s.Ready || s.Endpoints["ready"] != 1 {
		t.Errorf("got %+v", s)
	}
	l.cluster.raw.Policies.Upsert(policy.Object{Kind: policy.KindCiliumNetworkPolicy, Namespace: "default", Name: "bad", Err: "no such field"})
	l.await("the bad policy is reported", func() bool {
		s := get[rest.StatusResponse](t, l, rest.PathHealthz+"?brief=true")
		return s.Cilium.State == rest.StateWarning && strings.Contains(s.Cilium.Msg, "policies are not valid: 1")
	})
	var list []rest.PolicyObject
	if err := json.Unmarshal([]byte(get[rest.Policy](t, l, rest.PathPolicy).Policy), &list); err != nil || len(list) != 1 || list[0].Valid || list[0].Reason != "no such field" {
		t.Errorf("got %+v, %v", list, err)
	}
}

func TestEveryTableAndMapCanBePrinted(t *testing.T) {
	l := newLab(t).start()
	for _, info := range get[[]rest.TableInfo](t, l, rest.PathDB) {
		if info.Rows > 0 && info.Revision == 0 {
			t.Errorf("%s: %d rows of no commit", info.Name, info.Rows)
		}
		if tab := get[rest.Table](t, l, rest.PathDBTable+info.Name); tab.Name != info.Name || len(tab.Headings) == 0 {
			t.Errorf("%s: %+v", info.Name, tab)
		}
	}
	if tab := get[rest.Table](t, l, rest.PathBPF+"endpoint"); len(tab.Rows) != 1 {
		t.Errorf("got %+v", tab)
	}
	if m := get[rest.BPFMapList](t, l, rest.PathMap); len(m.Maps) != 1 || m.Maps[0].MaxEntries != 4096 {
		t.Errorf("got %+v", m)
	}
	if m := get[[]rest.Metric](t, l, rest.PathMetrics); !slices.ContainsFunc(m, func(m rest.Metric) bool {
		return m.Name == "cilium_drop_count_total" && m.Labels["reason"] == "Policy denied" && m.Value == 3
	}) {
		t.Errorf("got %+v", m)
	}
	if n := get[rest.ClusterNodeStatus](t, l, rest.PathClusterNodes); len(n.NodesAdded) != 1 || n.NodesAdded[0].PrimaryAddress.IPv4.AllocRange != "10.0.1.0/24" {
		t.Errorf("got %+v", n)
	}
	for _, path := range []string{rest.PathDBTable + "nope", rest.PathBPF + "nope", "/v1/nope"} {
		if err := l.client.Call(t.Context(), "GET", path, nil, nil); err == nil {
			t.Errorf("%s was answered", path)
		}
	}
}

func TestOptionsAreShownAndMostRefuseToChange(t *testing.T) {
	l := newLab(t).start()
	c := get[rest.DaemonConfiguration](t, l, rest.PathConfig)
	if c.Status.DaemonConfigurationMap["routing-mode"] != "tunnel" || c.Status.DeviceMTU != 1450 {
		t.Errorf("got %+v", c.Status)
	}
	err := l.client.Call(t.Context(), "PATCH", rest.PathConfig, rest.DaemonConfigurationSpec{Options: rest.ConfigurationMap{"debug": "true"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "restart the agent") {
		t.Errorf("got %v", err)
	}
	patch := func(mode string) error {
		return l.client.Call(t.Context(), "PATCH", rest.PathConfig, rest.DaemonConfigurationSpec{PolicyEnforcement: mode}, nil)
	}
	if err := patch("sometimes"); err == nil {
		t.Error("an unknown mode was accepted")
	}
	if err := patch("always"); err != nil {
		t.Fatal(err)
	}
	if c := get[rest.DaemonConfiguration](t, l, rest.PathConfig); c.Spec.PolicyEnforcement != "always" {
		t.Errorf("got %+v", c.Spec)
	}
	l.await("the engine has the mode", func() bool { m, _ := l.mode.Load().(string); return m == "always" })
}

func TestAuditModeIsSwitchedForTheAgentAndForAnEndpoint(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	l.bind(p)
	added := l.mustAdd(p)
	patch := func(path string, options rest.ConfigurationMap) error {
		return l.client.Call(t.Context(), "PATCH", path, rest.EndpointConfigurationSpec{Options: options}, nil)
	}
	path := rest.PathEndpointID + fmt.Sprint(added.EndpointID) + "/config"
	for _, bad := range []rest.ConfigurationMap{{"Color": "red"}, {"PolicyAuditMode": "sometimes"}} {
		if err := patch(path, bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	if err := patch(rest.PathEndpointID+"999/config", rest.ConfigurationMap{"PolicyAuditMode": "Enabled"}); err == nil {
		t.Error("an endpoint that is not there was changed")
	}
	if err := patch(path, rest.ConfigurationMap{"PolicyAuditMode": "Enabled"}); err != nil {
		t.Fatal(err)
	}
	if c := get[rest.EndpointConfigurationStatus](t, l, path); c.Realized.Options["PolicyAuditMode"] != "Enabled" {
		t.Errorf("got %+v", c.Realized)
	}
	l.await("the engine audits the endpoint", func() bool { return l.audited.Load() == 1 })
	saved, err := stateDir(l.agent.opts.RunDir).load()
	if err != nil || len(saved) != 1 || !saved[0].Endpoint.Audit {
		t.Errorf("a restart finds %+v (%v)", saved, err)
	}
	if err := l.client.Call(t.Context(), "PATCH", rest.PathConfig, rest.DaemonConfigurationSpec{Options: rest.ConfigurationMap{"PolicyAuditMode": "Enabled"}}, nil); err != nil {
		t.Fatal(err)
	}
	if c := get[rest.DaemonConfiguration](t, l, rest.PathConfig); c.Spec.Options["policy-audit-mode"] != "true" {
		t.Errorf("got %+v", c.Spec)
	}
	l.await("the engine audits everything", l.audit.Load)
}

func TestTheMonitorNamesBothEndsAndFilters(t *testing.T) {
	l := newLab(t).start()
	p := pod("curl", "app", "curl")
	l.bind(p)
	added := l.mustAdd(p)
	body, err := l.client.Stream(t.Context(), "GET", rest.PathMonitor+"?type=drop&from=default/curl", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	l.await("the listener is there", func() bool {
		l.agent.monitor.mu.Lock()
		defer l.agent.monitor.mu.Unlock()
		return len(l.agent.monitor.listeners) == 1
	})
	drop := Event{
		Type: abi.EventDrop, Reason: 133, ReasonText: "Policy denied", Protocol: 6, TCPFlags: 2, Endpoint: uint16(added.EndpointID),
		Source: netip.MustParseAddrPort("10.0.1.2:40000"), Destination: netip.MustParseAddrPort("10.0.2.2:80"),
		SourceIdentity: uint32(added.Identity), DestinationIdentity: 2,
	}
	other := drop
	other.Source = netip.MustParseAddrPort("10.0.2.9:1")
	verdict := drop
	verdict.Type = abi.EventVerdict
	for _, e := range []Event{other, verdict, drop} {
		l.kernel.events <- e
	}
	line, err := bufio.NewReader(body).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var got rest.Event
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if got.Type != rest.EventDrop || got.Source.Pod != "default/curl" || got.Source.Port != 40000 || got.TCPFlags != "SYN" ||
		!slices.Equal(got.Dest.Labels, rest.Labels{"reserved:world"}) || got.ReasonText != "Policy denied" || got.Direction != "egress" {
		t.Errorf("got %s", line)
	}
	if err := l.client.Call(t.Context(), "GET", rest.PathMonitor+"?colour=red", nil, nil); err == nil {
		t.Error("an unknown filter was accepted")
	}
}

func TestADenialIsAVerdictAndADrop(t *testing.T) {
	for reason, want := range map[int]bool{133: true, 181: true, 132: false} {
		e := rest.Event{Type: rest.EventDrop, Verdict: "deny", Reason: reason}
		for query, want := range map[string]bool{"type=drop": true, "type=policy-verdict&verdict=deny": want, "type=policy-verdict&verdict=allow": false, "type=trace": false} {
			values, _ := url.ParseQuery(query)
			if f, err := newFilter(values); err != nil || f.matches(e) != want {
				t.Errorf("reason %d, %q: want %v, %v", reason, query, want, err)
			}
		}
	}
}

func TestAFilterOfTheMonitorCombinesItsKeys(t *testing.T) {
	e := rest.Event{
		Type: rest.EventVerdict, Verdict: "allow", Direction: "ingress", Endpoint: 12, Protocol: "TCP",
		Source: rest.EventParty{IP: "10.0.2.2", Port: 1234, Identity: 300}, Dest: rest.EventParty{IP: "10.0.1.2", Port: 80, Pod: "default/web"},
	}
	for query, want := range map[string]bool{
		"":                                true,
		"type=drop&type=policy-verdict":   true,
		"type=drop":                       false,
		"to=12":                           true,
		"from=12":                         false,
		"related=12":                      true,
		"endpoint=default/web":            true,
		"from=10.0.2.0/24&port=80":        true,
		"from=10.0.2.0/24&port=81":        false,
		"from=identity:300&verdict=allow": true,
		"protocol=tcp&to=10.0.1.2":        true,
		"protocol=udp":                    false,
		"related=default/other":           false,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := newFilter(values)
		if err != nil || f.matches(e) != want {
			t.Errorf("%q: want %v, %v", query, want, err)
		}
	}
}
