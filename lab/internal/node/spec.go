// SPDX-License-Identifier: Apache-2.0

// Package node is one machine of a lab: namespaces around a real containerd,
// kubelet and kube-proxy.
//
// Start forks the node's pid 1 ("stentor-lab node-init"); Init is what runs
// there; Command runs something else inside. When pid 1 dies the kernel ends
// everything in the node's pid namespace, and with it its mounts.
package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
)

// Spec is all that a node's pid 1 must know. It is handed over as a file.
type Spec struct {
	Lab       string         `json:"lab"`
	Name      string         `json:"name"`
	NetNS     string         `json:"netns"`
	Addrs     []netip.Prefix `json:"addrs"` // IPv4 first
	PodCIDRs  []netip.Prefix `json:"podCIDRs"`
	DNS       []netip.Addr   `json:"dns"`
	API       string         `json:"api"`       // host:port of the API server
	Taints    []string       `json:"taints"`    // keys of NoExecute taints that the node registers with
	KubeProxy string         `json:"kubeProxy"` // "none" or kube-proxy's mode

	Dir       string             `json:"dir"`    // the node's own folder
	PKIDir    string             `json:"pkiDir"` // the cluster's certificates and kubeconfigs
	BinDir    string             `json:"binDir"` // with stentor-lab and stentor-kube
	ImageDir  string             `json:"imageDir"`
	Images    []string           `json:"images"` // archives in ImageDir, imported in this order
	Hosts     map[string]string  `json:"hosts"`  // name to address, for /etc/hosts
	Cgroups   []cgroup.Hierarchy `json:"cgroups"`
	Cgroup    string             `json:"cgroup"` // path of the node's cgroup in each hierarchy
	CNIPlugin []string           `json:"cniPlugins"`
}

// Paths of a node as seen from inside.
const (
	insideBin    = "/opt/stentor-lab/bin"
	insideImages = "/opt/stentor-lab/images"
	criSocket    = "/run/containerd/containerd.sock"
)

// Names of files in the node's folder.
const (
	specFile     = "spec.json"
	importedFile = "log/images-imported"
	initLog      = "log/node-init.log"
)

// CNIDir is the host's path of the node's /etc/cni/net.d.
func (s *Spec) CNIDir() string { return filepath.Join(s.Dir, "etc/cni/net.d") }

// LogFile is the host's path of the log of the node's pid 1.
func (s *Spec) LogFile() string { return filepath.Join(s.Dir, initLog) }

// Imported says whether the node has imported its images. The error, if any,
// is the one the import ended with.
func (s *Spec) Imported() (bool, error) {
	b, err := os.ReadFile(filepath.Join(s.Dir, importedFile))
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(b) > 0 {
		return true, fmt.Errorf("%s: import images: %s", s.Name, b)
	}
	return true, nil
}

func (s *Spec) write() error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, specFile), b, 0o600)
}

// ReadSpec reads what Start left in a node's folder.
func ReadSpec(dir string) (*Spec, error) {
	b, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return nil, err
	}
	s := new(Spec)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return s, nil
}

func joinAddrs(ps []netip.Prefix) string {
	out := ""
	for i, p := range ps {
		if i > 0 {
			out += ","
		}
		out += p.Addr().String()
	}
	return out
}
