// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"net/http"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/table"
)

// Setting is an option with its value now: a row of the table `settings`.
type Setting struct {
	Key, Value string
	Changed    bool // while the agent runs; a restart forgets it
}

// keyEnforcement is the one option that can change while the agent runs.
const keyEnforcement = "enable-policy"

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
		if k != keyEnforcement {
			immutable[k] = s.Value
		}
	}
	mode, _ := a.tables.settings.Get(keyEnforcement)
	spec := &rest.DaemonConfigurationSpec{PolicyEnforcement: mode.Value, Options: rest.ConfigurationMap{keyEnforcement: mode.Value}}
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
	mode := want.PolicyEnforcement
	for k, v := range want.Options {
		have, ok := a.tables.settings.Get(k)
		switch {
		case k == keyEnforcement || k == "PolicyEnforcement":
			mode = v
		case !ok:
			return nil, httpError{http.StatusBadRequest, "there is no option " + k}
		case have.Value != v:
			return nil, httpError{http.StatusForbidden, k + " cannot be changed while the agent runs: change the ConfigMap and restart the agent"}
		}
	}
	switch mode {
	case "":
		return nil, nil
	case policy.EnforceDefault, policy.EnforceAlways, policy.EnforceNever:
	default:
		return nil, httpError{http.StatusBadRequest, keyEnforcement + ": " + mode + " is not one of default, always, never"}
	}
	a.own.settings.Update(func(tx *table.Tx[Setting]) {
		if old, _ := tx.Get(keyEnforcement); old.Value != mode {
			tx.Upsert(Setting{Key: keyEnforcement, Value: mode, Changed: mode != a.opts.Enforcement})
		}
	})
	return nil, nil
}
