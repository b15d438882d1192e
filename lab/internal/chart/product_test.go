// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// product is the rendered chart of Stentor.
type product struct {
	config      map[string]string
	agent       appsv1.DaemonSet
	proxy       appsv1.DaemonSet
	operator    appsv1.Deployment
	roles       map[string]rbacv1.ClusterRole
	otherNames  []string
	hasOperator bool
}

func renderProduct(t *testing.T, set ...string) (product, error) {
	t.Helper()
	text, err := Render(t.Context(), Options{Dir: "../../../deploy/chart", Release: "stentor", Namespace: "kube-system", Set: set})
	p := product{roles: map[string]rbacv1.ClusterRole{}}
	if err != nil {
		return p, err
	}
	for part := range strings.SplitSeq(text, "\n---\n") {
		var head struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		decode := func(into any) {
			t.Helper()
			if err := yaml.UnmarshalStrict([]byte(part), into); err != nil {
				t.Fatalf("%v\n%s", err, part)
			}
		}
		if err := yaml.Unmarshal([]byte(part), &head); err != nil {
			t.Fatalf("%v\n%s", err, part)
		}
		switch head.Kind {
		case "ConfigMap":
			var c corev1.ConfigMap
			decode(&c)
			p.config = c.Data
		case "DaemonSet":
			if head.Metadata.Name == "stentor-proxy" {
				decode(&p.proxy)
			} else {
				decode(&p.agent)
			}
		case "Deployment":
			decode(&p.operator)
			p.hasOperator = true
		case "ClusterRole":
			var r rbacv1.ClusterRole
			decode(&r)
			p.roles[r.Name] = r
		case "":
		default:
			p.otherNames = append(p.otherNames, head.Kind+" "+head.Metadata.Name)
		}
	}
	return p, nil
}

func mustRender(t *testing.T, set ...string) product {
	t.Helper()
	p, err := renderProduct(t, set...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func privileged(c corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

func TestTheProxyHasNamedRightsAndNoAccount(t *testing.T) {
	spec := mustRender(t).proxy.Spec.Template.Spec
	if c := spec.Containers[0]; privileged(c) || len(c.SecurityContext.Capabilities.Add) == 0 || c.SecurityContext.Capabilities.Drop[0] != "ALL" {
		t.Errorf("the proxy's rights: %+v", c.SecurityContext)
	}
	if a := spec.AutomountServiceAccountToken; a == nil || *a {
		t.Error("the proxy gets a token of the API server, which it never asks")
	}
	if p := mustRender(t, "l7Proxy=false"); p.proxy.Name != "" || p.config["enable-l7-proxy"] != "false" {
		t.Errorf("without a proxy: DaemonSet %q, enable-l7-proxy %q", p.proxy.Name, p.config["enable-l7-proxy"])
	}
}

func TestTheAgentHasNamedRightsAndOnlyTheMountingStepHasAll(t *testing.T) {
	spec := mustRender(t).agent.Spec.Template.Spec
	if c := spec.Containers[0]; privileged(c) || len(c.SecurityContext.Capabilities.Add) == 0 || c.SecurityContext.Capabilities.Drop[0] != "ALL" {
		t.Errorf("the agent's rights: %+v", c.SecurityContext)
	}
	if !privileged(spec.InitContainers[0]) {
		t.Error("the step that mounts for the node is not privileged: the API server would refuse its propagation")
	}
	if c := mustRender(t, "bpf.autoMount.enabled=false").agent.Spec.Template.Spec.InitContainers[0]; privileged(c) || c.VolumeMounts[len(c.VolumeMounts)-1].MountPropagation != nil {
		t.Errorf("the step that mounts nothing: %+v", c)
	}
	if c := mustRender(t, "securityContext.privileged=true").agent.Spec.Template.Spec.Containers[0]; !privileged(c) {
		t.Error("securityContext.privileged has no effect")
	}
}

func TestEveryMountHasAVolumeAndEveryVolumeIsMounted(t *testing.T) {
	for _, set := range [][]string{nil, {"cni.install=false"}, {"bpf.autoMount.enabled=false"}} {
		p := mustRender(t, set...)
		for _, spec := range []corev1.PodSpec{p.agent.Spec.Template.Spec, p.operator.Spec.Template.Spec, p.proxy.Spec.Template.Spec} {
			var mounted, volumes []string
			for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
				for _, m := range c.VolumeMounts {
					mounted = append(mounted, m.Name)
				}
			}
			for _, v := range spec.Volumes {
				volumes = append(volumes, v.Name)
			}
			slices.Sort(mounted)
			slices.Sort(volumes)
			if mounted = slices.Compact(mounted); !slices.Equal(mounted, volumes) {
				t.Errorf("%v: mounted %v, volumes %v", set, mounted, volumes)
			}
		}
	}
}

func TestBothProgramsRunBeforeThereIsAPodNetwork(t *testing.T) {
	p := mustRender(t, "k8sServiceHost=172.30.0.1", "k8sServicePort=6443")
	for name, template := range map[string]corev1.PodTemplateSpec{"agent": p.agent.Spec.Template, "operator": p.operator.Spec.Template} {
		spec := template.Spec
		if !spec.HostNetwork || spec.DNSPolicy != corev1.DNSDefault || spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
			t.Errorf("%s: hostNetwork %v, dnsPolicy %s, enableServiceLinks %v", name, spec.HostNetwork, spec.DNSPolicy, spec.EnableServiceLinks)
		}
		if len(spec.Tolerations) != 1 || spec.Tolerations[0].Operator != corev1.TolerationOpExists || spec.Tolerations[0].Key != "" {
			t.Errorf("%s tolerates %v", name, spec.Tolerations)
		}
		if !strings.HasPrefix(spec.PriorityClassName, "system-") {
			t.Errorf("%s has priority %q", name, spec.PriorityClassName)
		}
		env := map[string]string{}
		for _, e := range spec.Containers[0].Env {
			env[e.Name] = e.Value
		}
		if env["KUBERNETES_SERVICE_HOST"] != "172.30.0.1" || env["KUBERNETES_SERVICE_PORT"] != "6443" {
			t.Errorf("%s reaches the API server by %v", name, env)
		}
	}
}

func TestValuesBecomeKeysOfTheConfigMap(t *testing.T) {
	for _, c := range []struct {
		set  string
		want map[string]string
	}{
		{"", map[string]string{"ipam": "cluster-pool", "cluster-pool-ipv4-cidr": "10.0.0.0/8", "enable-ipv6": "false", "routing-mode": "tunnel", "cgroup-root": "/host/sys/fs/cgroup", "procfs": "/host/proc"}},
		{"ipv6.enabled=true", map[string]string{"cluster-pool-ipv6-cidr": "fd00::/104", "cluster-pool-ipv6-mask-size": "120"}},
		{"ipam.operator.clusterPoolIPv4PodCIDRList={10.1.0.0/16,10.2.0.0/16}", map[string]string{"cluster-pool-ipv4-cidr": "10.1.0.0/16 10.2.0.0/16"}},
		{"routingMode=native,ipv4NativeRoutingCIDR=10.0.0.0/8,autoDirectNodeRoutes=true", map[string]string{"ipv4-native-routing-cidr": "10.0.0.0/8", "auto-direct-node-routes": "true", "routing-mode": "native"}},
		{"tunnelPort=4789,MTU=9000,policyEnforcementMode=always", map[string]string{"tunnel-port": "4789", "mtu": "9000", "enable-policy": "always"}},
		{"extraConfig.health-probe-interval=5s,extraConfig.mtu=1400", map[string]string{"health-probe-interval": "5s", "mtu": "1400"}},
		{"ipv4.enabled=false,ipv6.enabled=true", map[string]string{"operator-api-serve-addr": "[::1]:9234"}},
		{"prometheus.enabled=true,prometheus.port=9999,prometheus.serviceMonitor.enabled=true", map[string]string{"prometheus-serve-addr": ":9999"}},
		{"operator.prometheus.enabled=true,operator.prometheus.serviceMonitor.enabled=true", map[string]string{"operator-prometheus-serve-addr": ":9963"}},
		{"cni.install=false", map[string]string{"write-cni-conf-when-ready": ""}},
	} {
		p := mustRender(t, c.set)
		for key, want := range c.want {
			if got, ok := p.config[key]; !ok || got != want {
				t.Errorf("%q: %s is %q, want %q", c.set, key, got, want)
			}
		}
	}
	for _, key := range []string{"prometheus-serve-addr", "operator-prometheus-serve-addr"} {
		if _, ok := mustRender(t).config[key]; ok {
			t.Errorf("%s is set although nobody asked for metrics", key)
		}
	}
	if _, ok := mustRender(t).config["cluster-pool-ipv6-cidr"]; ok {
		t.Error("there are IPv6 ranges without IPv6")
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	for set, want := range map[string]string{
		"bogus=1":                           "'bogus' not allowed",
		"image.tga=x":                       "'tga' not allowed",
		"MTU=big":                           "want integer",
		"routingMode=geneve":                "routingMode",
		"kubeProxyReplacement=perhaps":      "kubeProxyReplacement",
		"ipv4.enabled=false":                "both false",
		"routingMode=native":                "ipv4NativeRoutingCIDR",
		"autoDirectNodeRoutes=true":         "needs routingMode native",
		"k8sServiceHost=x":                  "needs k8sServicePort",
		"image.useDigest=true":              "useDigest needs digest",
		"operator.identityGCInterval=often": "identityGCInterval",
		"prometheus.port=0":                 "port",
	} {
		if _, err := renderProduct(t, set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", set, want, err)
		}
	}
}

func TestRightsStayAsFewAsTheyAre(t *testing.T) {
	p := mustRender(t)
	for name, forbidden := range map[string][]string{
		"stentor":          {"*", "secrets", "ciliumidentities delete", "ciliumnodes delete", "pods create", "pods delete", "customresourcedefinitions", "ciliumnetworkpolicies/status", "ciliumclusterwidenetworkpolicies/status"},
		"stentor-operator": {"*", "secrets", "pods create", "pods delete", "ciliumnetworkpolicies create", "ciliumnetworkpolicies update", "ciliumnetworkpolicies patch", "ciliumnetworkpolicies delete", "ciliumnodes create"},
	} {
		var all []string
		for _, rule := range p.roles[name].Rules {
			for _, resource := range rule.Resources {
				all = append(all, resource)
				for _, verb := range rule.Verbs {
					all = append(all, verb, fmt.Sprint(resource, " ", verb))
				}
			}
		}
		if len(all) == 0 {
			t.Errorf("no role %s", name)
		}
		for _, f := range forbidden {
			if slices.Contains(all, f) {
				t.Errorf("%s may %s", name, f)
			}
		}
	}
	if mustRender(t, "operator.enabled=false").hasOperator {
		t.Error("operator.enabled has no effect")
	}
}
