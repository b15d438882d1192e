// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/lab/internal/image"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

const pluginDir = "/usr/lib/cni"

// cniPlugins are the standard plugins a lab needs: loopback for every pod,
// portmap for host ports, and the rest where the bridge is the pod network.
func cniPlugins(p *plan.Plan) []string {
	if p.CNI == plan.CNIBridge {
		return []string{"loopback", "portmap", "bridge", "host-local"}
	}
	return []string{"loopback", "portmap"}
}

// packages say which Debian package has a file that a lab needs.
func needed(p *plan.Plan) map[string]string {
	out := map[string]string{
		"/usr/bin/containerd": "containerd", "/usr/bin/ctr": "containerd", "/usr/sbin/runc": "runc",
		"/usr/sbin/iptables": "iptables", "/usr/sbin/nft": "nftables", "/usr/bin/mount": "mount",
	}
	for _, plugin := range cniPlugins(p) {
		out[filepath.Join(pluginDir, plugin)] = "containernetworking-plugins"
	}
	return out
}

// makeTargets build the binaries of a lab.
var makeTargets = map[string]string{
	"stentor": "build", "stentor-cni": "build",
}

// checkMachine says all that is missing at once, with the commands that help.
func checkMachine(p *plan.Plan, binDir, chartDir string) error {
	if os.Geteuid() != 0 {
		return errors.New("a lab needs root, for namespaces and mounts (sudo stentor lab up)")
	}
	var errs []error
	var packages []string
	for file, pkg := range needed(p) {
		if !present(file) && !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	if len(packages) > 0 {
		slices.Sort(packages)
		errs = append(errs, fmt.Errorf("missing on this machine: %s\n  apt-get install -y %[1]s", strings.Join(packages, " ")))
	}
	bins := append([]string{"stentor-lab", "stentor-kube"}, image.Binaries(imagesFor(p))...)
	var missing, targets []string
	for _, b := range bins {
		if _, err := os.Stat(filepath.Join(binDir, b)); err != nil {
			missing = append(missing, b)
			t := makeTargets[b]
			if t == "" {
				t = "lab"
			}
			if !slices.Contains(targets, t) {
				targets = append(targets, t)
			}
		}
	}
	if len(missing) > 0 {
		slices.Sort(targets)
		errs = append(errs, fmt.Errorf("missing in %s: %s\n  make %s", binDir, strings.Join(missing, " "), strings.Join(targets, " ")))
	}
	if p.CNI == plan.CNIStentor {
		if _, err := os.Stat(filepath.Join(chartDir, "Chart.yaml")); err != nil {
			errs = append(errs, fmt.Errorf("no Helm chart in %q (--chart DIR)", chartDir))
		}
	}
	return errors.Join(errs...)
}

// present accepts a program in another folder of the usual path as well, and
// then only its being there is known.
func present(file string) bool {
	if _, err := os.Stat(file); err == nil {
		return true
	}
	_, err := exec.LookPath(filepath.Base(file))
	return err == nil
}

// closeOnExec keeps programs that are started from now on, which outlive this
// one, from holding what the caller's shell left open, such as a lock. Files
// that are handed over on purpose are not affected.
func closeOnExec() error {
	const firstOther = 3 // behind the standard streams
	if err := unix.CloseRange(firstOther, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark files close-on-exec: %w", err)
	}
	return nil
}

// certIPs are the addresses under which pods, nodes and people reach the API server.
func certIPs(p *plan.Plan) []netip.Addr {
	var out []netip.Addr
	for _, f := range p.Fabric {
		out = append(out, f.Addr())
	}
	for _, s := range p.ServiceCIDRs {
		out = append(out, s.Addr().Next())
	}
	return out
}
