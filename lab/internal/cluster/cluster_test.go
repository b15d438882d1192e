// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/plan"
)

func mustPlan(t *testing.T, o plan.Options) *plan.Plan {
	t.Helper()
	if o.StateRoot == "" {
		o.StateRoot = t.TempDir()
	}
	p, err := plan.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProgramsOfALabDoNotHoldFilesOfTheCaller(t *testing.T) {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY, 0) // as a shell leaves one
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	held := func() bool {
		t.Helper()
		out, err := exec.Command("readlink", fmt.Sprintf("/proc/self/fd/%d", fd)).Output()
		return err == nil && strings.TrimSpace(string(out)) == os.DevNull
	}
	if !held() {
		t.Fatal("a file without close-on-exec does not reach a program: this test shows nothing")
	}
	if err := closeOnExec(); err != nil {
		t.Fatal(err)
	}
	if held() {
		t.Errorf("file %d is open in a program", fd)
	}
}

func TestAProcessIsNotTakenForALaterOneWithItsNumber(t *testing.T) {
	me := newProcess(os.Getpid())
	if !me.alive() {
		t.Error("this process is taken for dead")
	}
	me.Start = "1"
	if me.alive() {
		t.Error("a process with another start time is taken for alive")
	}
	if (process{}).alive() {
		t.Error("no process is taken for alive")
	}
}

func TestALabIsLockedForOneCommandAtATime(t *testing.T) {
	p := mustPlan(t, plan.Options{})
	unlock, err := lock(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(p); err == nil || !strings.Contains(err.Error(), "another stentor-lab") {
		t.Errorf("the second lock gives %v, want an error", err)
	}
	unlock()
	again, err := lock(p)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestALabThatIsNotUpSaysHowToBringItUp(t *testing.T) {
	_, err := Load(plan.Options{Name: "nowhere", StateRoot: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "stentor lab up --name nowhere") {
		t.Errorf("got %v", err)
	}
}

func TestAnotherNumberOfNodesIsAnotherLabAndOtherChartValuesAreNot(t *testing.T) {
	running := plan.Options{}.WithDefaults()
	wanted := running
	wanted.Set, wanted.RoutingMode = []string{"a=b"}, "native"
	if !sameLab(running, wanted) {
		t.Error("other chart values make another lab")
	}
	wanted.Nodes = 3
	if sameLab(running, wanted) {
		t.Error("another number of nodes makes no other lab")
	}
}

func TestTheBridgeGivesPodsAddressesOfBothFamilies(t *testing.T) {
	b, err := bridgeConflist([]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")})
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Plugins []struct {
			Type string
			IPAM struct {
				Ranges [][]struct{ Subnet string }
				Routes []struct{ Dst string }
			}
		}
	}
	if err := json.Unmarshal(b, &conf); err != nil {
		t.Fatal(err)
	}
	ipam := conf.Plugins[0].IPAM
	if len(ipam.Ranges) != 2 || ipam.Ranges[1][0].Subnet != "fd00:10:244:1::/64" || ipam.Routes[0].Dst != "0.0.0.0/0" || ipam.Routes[1].Dst != "::/0" {
		t.Errorf("got %+v", ipam)
	}
}

func TestOnlyWhatLeavesThePodsNetworksIsMasqueraded(t *testing.T) {
	rules := masqueradeRules(mustPlan(t, plan.Options{}).PodCIDRs)
	for _, want := range []string{
		"ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade",
		"ip6 saddr fd00:10:244::/56 ip6 daddr != fd00:10:244::/56 masquerade",
	} {
		if !strings.Contains(rules, want) {
			t.Errorf("no %q in\n%s", want, rules)
		}
	}
}

func TestCoreDNSHasOneServiceAddressPerFamily(t *testing.T) {
	for family, want := range map[string][]string{
		plan.Dual: {`clusterIP: "10.96.0.10"`, `clusterIPs: ["10.96.0.10","fd00:10:96::a"]`, `ipFamilies: ["IPv4","IPv6"]`, "ipFamilyPolicy: RequireDualStack"},
		plan.IPv6: {`clusterIP: "fd00:10:96::a"`, `clusterIPs: ["fd00:10:96::a"]`, `ipFamilies: ["IPv6"]`, "ipFamilyPolicy: SingleStack", `value: "fd00:30::1"`},
	} {
		got := corednsManifests(mustPlan(t, plan.Options{IPFamily: family}))
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %s", family, w)
			}
		}
		if strings.Contains(got, "$") {
			t.Errorf("%s: a placeholder is left", family)
		}
	}
}

func TestTheChartIsToldAboutTheCluster(t *testing.T) {
	v := chartValues(mustPlan(t, plan.Options{KubeProxy: plan.ProxyNone, RoutingMode: "native"}), []string{"pause-dev-1.tar", "stentor-dev-2.tar"}, false)
	if v["k8sServiceHost"] != "172.30.0.1" || v["ipv4NativeRoutingCIDR"] != "10.244.0.0/16" || v["ipv6NativeRoutingCIDR"] != "fd00:10:244::/56" {
		t.Errorf("got %v", v)
	}
	if got := v["podAnnotations"].(object)["stentor.net/lab-image"]; got != "stentor-dev-2" {
		t.Errorf("pods are annotated with %v, want the image's build", got)
	}
	pool := v["ipam"].(object)["operator"].(object)
	if pool["clusterPoolIPv6MaskSize"] != 64 || pool["clusterPoolIPv4MaskSize"] != 24 {
		t.Errorf("got pools %v", pool)
	}
}

func TestTheCertificateCoversTheKubernetesService(t *testing.T) {
	got := certIPs(mustPlan(t, plan.Options{}))
	want := []string{"172.30.0.1", "fd00:30::1", "10.96.0.1", "fd00:10:96::1"}
	for i, w := range want {
		if got[i].String() != w {
			t.Errorf("address %d is %s, want %s", i, got[i], w)
		}
	}
}
