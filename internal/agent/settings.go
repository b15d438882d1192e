// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/endpoint"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// Setting is an option with its value now: a row of the table `settings`.
type Setting struct {
	Key, Value string
	Changed    bool // while the agent runs; a restart forgets it
}

// Options that can change while the agent runs.
const (
	keyEnforcement = "enable-policy"
	keyAudit       = "policy-audit-mode"
)

// optionAudit is the name that the API has for audit mode, of the agent and of
// an endpoint.
const optionAudit = "PolicyAuditMode"

func newSettingTable() (*table.Table[Setting], *table.Writer[Setting]) {
	return table.New(table.Options[Setting]{
		Name: "settings",
		Key:  func(s Setting) string { return s.Key },
		Columns: []table.Column[Setting]{
			{Name: "KEY", Value: func(s Setting) string { return s.Key }},
			{Name: "VALUE", Value: func(s Setting) string { return s.Value }},
			{Name: "CHANGED", Value: func(s Setting) string { return yesNo(s.Changed) }},
		},
	})
}

// settings are the rows of options as they were loaded.
func settings(o Options) []Setting {
	var out []Setting
	for k, v := range o.byKey {
		out = append(out, Setting{Key: k, Value: v})
	}
	return out
}

func (a *Agent) config() rest.DaemonConfiguration {
	o := a.opts
	all, immutable := map[string]any{}, rest.ConfigurationMap{}
	for k, s := range a.tables.settings.Snapshot().All() {
		all[k] = s.Value
		if k != keyEnforcement && k != keyAudit {
			immutable[k] = s.Value
		}
	}
	mode, _ := a.tables.settings.Get(keyEnforcement)
	audit, _ := a.tables.settings.Get(keyAudit)
	spec := &rest.DaemonConfigurationSpec{PolicyEnforcement: mode.Value, Options: rest.ConfigurationMap{
		keyEnforcement: mode.Value, keyAudit: audit.Value,
	}}
	status := &rest.DaemonConfigurationStatus{
		Realized: spec, Immutable: immutable, K8sEndpoint: a.world.cluster.Host(), K8sConfiguration: o.Kubeconfig,
		DatapathMode: "veth", IPAMMode: o.IPAM, Masquerade: o.Masquerade4 || o.Masquerade6,
		MasqueradeProtocols: &rest.Families{IPv4: o.Masquerade4, IPv6: o.Masquerade6}, DaemonConfigurationMap: all,
	}
	if self := localRow(a.tables); self.Local {
		status.Addressing = addressing(self)
	}
	if dp, err := a.datapath(); err == nil {
		status.DeviceMTU, status.RouteMTU = int64(dp.MTU()), int64(dp.MTU())
	}
	return rest.DaemonConfiguration{Spec: spec, Status: status}
}

// patchConfig changes options while the agent runs: all of them, or none.
func (a *Agent) patchConfig(r *http.Request) (any, error) {
	var want rest.DaemonConfigurationSpec
	if err := json.NewDecoder(r.Body).Decode(&want); err != nil {
		return nil, httpError{http.StatusBadRequest, "read the request: " + err.Error()}
	}
	change := map[string]string{}
	if want.PolicyEnforcement != "" {
		change[keyEnforcement] = want.PolicyEnforcement
	}
	for k, v := range want.Options {
		have, ok := a.tables.settings.Get(k)
		switch {
		case k == keyEnforcement || k == "PolicyEnforcement":
			change[keyEnforcement] = v
		case k == keyAudit || k == optionAudit:
			on, err := switched(v)
			if err != nil {
				return nil, httpError{http.StatusBadRequest, k + ": " + err.Error()}
			}
			change[keyAudit] = strconv.FormatBool(on)
		case !ok:
			return nil, httpError{http.StatusBadRequest, "there is no option " + k}
		case have.Value != v:
			return nil, httpError{http.StatusForbidden, k + " cannot be changed while the agent runs: change the ConfigMap and restart the agent"}
		}
	}
	switch mode, some := change[keyEnforcement]; mode {
	case policy.EnforceDefault, policy.EnforceAlways, policy.EnforceNever:
	default:
		if some {
			return nil, httpError{http.StatusBadRequest, keyEnforcement + ": " + mode + " is not one of default, always, never"}
		}
	}
	a.own.settings.Update(func(tx *table.Tx[Setting]) {
		for k, v := range change {
			if old, _ := tx.Get(k); old.Value != v {
				tx.Upsert(Setting{Key: k, Value: v, Changed: v != a.opts.byKey[k]})
			}
		}
	})
	return nil, nil
}

// switched reads the value of an option that is on or off.
func switched(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "enabled", "true", "1":
		return true, nil
	case "disabled", "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither Enabled nor Disabled", value)
}

// onOff is the opposite.
func onOff(on bool) string {
	if on {
		return "Enabled"
	}
	return "Disabled"
}

// patchEndpoint changes what can be changed of an endpoint: all of it, or nothing.
func (a *Agent) patchEndpoint(r *http.Request) (any, error) {
	id, ok := strings.CutSuffix(r.PathValue("id"), "/config")
	if !ok {
		return nil, httpError{http.StatusNotFound, "only the config of an endpoint can be changed: PATCH " + rest.PathEndpointID + "ID/config"}
	}
	e, err := a.findEndpoint(id)
	if err != nil {
		return nil, err
	}
	var want rest.EndpointConfigurationSpec
	if err := json.NewDecoder(r.Body).Decode(&want); err != nil {
		return nil, httpError{http.StatusBadRequest, "read the request: " + err.Error()}
	}
	audit := e.Audit
	for k, v := range want.Options {
		if k != optionAudit {
			return nil, httpError{http.StatusBadRequest, "endpoints have no option " + k + ", only " + optionAudit}
		}
		if audit, err = switched(v); err != nil {
			return nil, httpError{http.StatusBadRequest, k + ": " + err.Error()}
		}
	}
	return nil, a.endpoints.audit(e, audit)
}

// endpointConfig is the configuration of an endpoint.
func endpointConfig(e endpoint.Endpoint) *rest.EndpointConfigurationSpec {
	return &rest.EndpointConfigurationSpec{Options: rest.ConfigurationMap{optionAudit: onOff(e.Audit)}}
}
