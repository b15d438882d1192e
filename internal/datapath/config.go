// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/datapath/link"
	"github.com/stentor-net/stentor/internal/datapath/load"
)

// Config of the node's datapath: what cannot change without loading programs again.
type Config struct {
	BPFDir                   string         // on the node's bpf file system; "": /sys/fs/bpf/stentor
	CgroupRoot               string         // of the node's cgroup v2 hierarchy; "": the first in /proc/mounts
	IPv4, IPv6               bool           // families of pods
	Tunnel                   bool           // VXLAN between nodes; false: native routing
	TunnelPort               uint16         // 0: 8472
	DirectRoutes             bool           // auto-direct-node-routes: native routes through the nodes' addresses
	Devices                  []string       // uplinks; empty: those of NodeIPs and of the default routes
	NodeIPs                  []netip.Addr   // this node's InternalIPs
	Router                   []netip.Addr   // router addresses, one per family
	PodCIDRs                 []netip.Prefix // this node's
	NativeCIDRs              []netip.Prefix // ipv4/ipv6-native-routing-cidr: never masqueraded
	MTU                      int            // of pods; 0: the uplink's minus the overlay's overhead
	Masquerade4, Masquerade6 bool
	SocketLB                 bool
	Proxy                    bool     // of the node, for L7 rules
	Services                 Services // HostNetNS is found out
	MaglevSize               int      // positions of a Maglev table; 0: the default
	MonitorAggregation       string   // "none": an event per packet; otherwise per connection
	ProcSys                  string   // "": /proc/sys
}

// Services says what is carried out besides ClusterIP for pods.
type Services = load.Services

const defaultDir = "/sys/fs/bpf/stentor"

// bpfMagic is the type of a bpf file system.
const bpfMagic = unix.BPF_FS_MAGIC

func (c *Config) validate() error {
	if c.BPFDir == "" {
		c.BPFDir = defaultDir
	}
	if len(c.NodeIPs) == 0 && len(c.Devices) == 0 {
		return errors.New("neither the node's addresses nor its devices are known")
	}
	return checkFileSystem(c.BPFDir)
}

// checkFileSystem wants dir, or where it will be made, on a bpf file system.
func checkFileSystem(dir string) error {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if errors.Is(err, os.ErrNotExist) && at != "/" {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", at, err)
		}
		if uint32(st.Type) != bpfMagic {
			return fmt.Errorf("%s is not on a bpf file system: mount one on the node (mount -t bpf bpf /sys/fs/bpf) and into the agent", dir)
		}
		return nil
	}
}

func (c *Config) linkOptions() link.Options {
	o := link.Options{IPv4: c.IPv4, IPv6: c.IPv6, Tunnel: c.Tunnel, TunnelPort: c.TunnelPort, Proxy: c.Proxy, Direct: c.DirectRoutes,
		Router: c.Router, NodeIPs: c.NodeIPs, PodCIDRs: c.PodCIDRs, Uplinks: c.Devices, MTU: c.MTU, ProcSys: c.ProcSys}
	if c.Services.AllKinds && c.Services.ReservePorts {
		o.Reserved = [2]uint16{c.Services.PortMin, c.Services.PortMax}
	}
	return o
}

func (c *Config) loadOptions(d link.Devices, hz uint32) load.Options {
	level := uint8(1)
	if c.MonitorAggregation == "none" {
		level = 2
	}
	return load.Options{Dir: c.BPFDir, Cgroup: c.CgroupRoot, IPv4: c.IPv4, IPv6: c.IPv6, Tunnel: c.Tunnel, TunnelPort: c.TunnelPort,
		NodeIndex: LocalNode, Masquerade4: c.Masquerade4, Masquerade6: c.Masquerade6, SocketLB: c.SocketLB, Services: c.Services,
		EventLevel: level, HZ: hz, Devices: d}
}
