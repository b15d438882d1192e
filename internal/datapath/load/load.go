// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/bpf"
	"github.com/stentor-net/stentor/internal/datapath/link"
	"github.com/stentor-net/stentor/internal/datapath/maps"
)

// Options of the programs: constants in their .rodata.
type Options struct {
	Dir                      string // on a bpf file system: pins of programs and links
	Cgroup                   string // root of the cgroup v2 hierarchy whose sockets are translated; "": the mounted one
	IPv4, IPv6               bool
	Tunnel                   bool
	TunnelPort               uint16 // 0: 8472
	NodeIndex                uint16 // this node's row; 0: 1
	Masquerade4, Masquerade6 bool
	SocketLB                 bool
	Services                 Services
	EventLevel               uint8 // 0 drops only, 1 connections, 2 every packet
	HZ                       uint32
	Devices                  link.Devices
}

func (o *Options) validate() error {
	if o.Dir == "" {
		return errors.New("no directory for pins")
	}
	if o.HZ == 0 {
		return errors.New("timer frequency of the kernel is not known")
	}
	if len(o.Devices.Uplinks) == 0 {
		return errors.New("no uplink")
	}
	if o.TunnelPort == 0 {
		o.TunnelPort = 8472
	}
	if o.NodeIndex == 0 {
		o.NodeIndex = 1
	}
	return nil
}

// Services says what is carried out besides ClusterIP for pods.
type Services struct {
	AllKinds       bool   // every kind, for clients outside, too
	HostOnly       bool   // of sockets, only the host's are translated
	BindProtection bool   // no socket of the host may bind to a NodePort
	ReservePorts   bool   // the kernel gives no NodePort to a socket of the host either
	Silent         bool   // a service without backends drops instead of answering
	PortMin        uint16 // of NodePorts, inclusive
	PortMax        uint16
	MaglevSeed     uint64
	HostNetNS      uint64 // cookie of the host's network namespace
}

// Specs are the compiled programs, not loaded yet.
type Specs struct {
	endpoint, overlay, net, sock *ebpf.CollectionSpec
}

// Parse reads the programs that are part of this binary.
func Parse() (*Specs, error) {
	s := &Specs{}
	for _, o := range []struct {
		name string
		to   **ebpf.CollectionSpec
		load func() (*ebpf.CollectionSpec, error)
	}{
		{"endpoint", &s.endpoint, bpf.LoadEndpoint},
		{"overlay", &s.overlay, bpf.LoadOverlay},
		{"net", &s.net, bpf.LoadNet},
		{"sock", &s.sock, bpf.LoadSock},
	} {
		spec, err := o.load()
		if err != nil {
			return nil, fmt.Errorf("parse %s programs for %s: %w", o.name, runtime.GOARCH, err)
		}
		maps.Adapt(spec.Maps)
		*o.to = spec
	}
	return s, nil
}

// Maps are the tables of all programs, by name.
func (s *Specs) Maps() map[string]*ebpf.MapSpec {
	out := map[string]*ebpf.MapSpec{}
	for _, c := range []*ebpf.CollectionSpec{s.endpoint, s.overlay, s.net, s.sock} {
		for name, m := range c.Maps {
			out[name] = m
		}
	}
	return out
}

// Programs are loaded programs.
type Programs struct {
	opt      Options
	endpoint *ebpf.Collection
	overlay  *ebpf.Collection
	sock     *ebpf.Collection
	net      map[int]*ebpf.Collection // by uplink
	tc       *attacher
}

// Load loads the programs over the tables; nothing is attached yet.
func Load(specs *Specs, tables map[string]*ebpf.Map, opt Options) (*Programs, error) {
	if err := opt.validate(); err != nil {
		return nil, err
	}
	p := &Programs{opt: opt, net: map[int]*ebpf.Collection{}}
	if err := p.load(specs, tables); err != nil {
		p.Close()
		return nil, err
	}
	if err := p.pin(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Programs) load(specs *Specs, tables map[string]*ebpf.Map) (err error) {
	if p.tc, err = newAttacher(); err != nil {
		return err
	}
	first := p.opt.Devices.Uplinks[0]
	if p.endpoint, err = p.collection("endpoint", specs.endpoint, tables, first); err != nil {
		return err
	}
	if p.opt.Tunnel {
		if p.overlay, err = p.collection("overlay", specs.overlay, tables, first); err != nil {
			return err
		}
	}
	for _, d := range p.opt.Devices.Uplinks {
		if p.net[d.Index], err = p.collection("net", specs.net, tables, d); err != nil {
			return err
		}
	}
	if p.opt.SocketLB {
		p.sock, err = p.collection("sock", specs.sock, tables, first)
	}
	return err
}

// collection loads one object with the constants of an uplink.
func (p *Programs) collection(name string, spec *ebpf.CollectionSpec, tables map[string]*ebpf.Map, uplink link.Device) (*ebpf.Collection, error) {
	spec = spec.Copy()
	for key, value := range p.constants(uplink) {
		v := spec.Variables[key]
		if v == nil {
			continue // this object has no use for it
		}
		if err := v.Set(value); err != nil {
			return nil, fmt.Errorf("set %s of %s programs: %w", key, name, err)
		}
	}
	replace := map[string]*ebpf.Map{}
	for key := range spec.Maps {
		if m := tables[key]; m != nil {
			replace[key] = m
			spec.Maps[key].MaxEntries = m.MaxEntries() // some tables grow
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, fmt.Errorf("load %s programs: %w", name, explain(err))
	}
	return c, nil
}

func (p *Programs) constants(uplink link.Device) map[string]any {
	o := p.opt
	return map[string]any{
		abi.ConfigIPv4:            flag(o.IPv4),
		abi.ConfigIPv6:            flag(o.IPv6),
		abi.ConfigTunnel:          flag(o.Tunnel),
		abi.ConfigTunnelPort:      o.TunnelPort,
		abi.ConfigNodeIndex:       o.NodeIndex,
		abi.ConfigMTU:             uint32(o.Devices.MTU),
		abi.ConfigOverlayIfindex:  uint32(o.Devices.Overlay.Index),
		abi.ConfigUplinkIfindex:   uint32(uplink.Index),
		abi.ConfigHostIfindex:     uint32(o.Devices.Host.Index),
		abi.ConfigHostMAC:         o.Devices.Host.MAC,
		abi.ConfigMasquerade4:     flag(o.Masquerade4 && uplink.Addr4.IsValid()),
		abi.ConfigMasquerade6:     flag(o.Masquerade6 && uplink.Addr6.IsValid()),
		abi.ConfigMasqueradeAddr4: bytes16(uplink.Addr4),
		abi.ConfigMasqueradeAddr6: bytes16(uplink.Addr6),
		abi.ConfigServices:        flag(o.Services.AllKinds),
		abi.ConfigHostSockets:     flag(o.Services.HostOnly),
		abi.ConfigBindProtection:  flag(o.Services.BindProtection && o.Services.AllKinds),
		abi.ConfigReject:          flag(!o.Services.Silent),
		abi.ConfigNodePortMin:     o.Services.PortMin,
		abi.ConfigNodePortMax:     o.Services.PortMax,
		abi.ConfigMaglevSeed:      o.Services.MaglevSeed,
		abi.ConfigHostNetns:       o.Services.HostNetNS,
		abi.ConfigHZ:              o.HZ,
		abi.ConfigEventLevel:      o.EventLevel,
	}
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

func bytes16(a netip.Addr) (b [16]byte) {
	if a.IsValid() {
		b = a.As16()
	}
	return b
}

// pin keeps the programs findable for tools while no agent runs.
func (p *Programs) pin() error {
	dir := filepath.Join(p.opt.Dir, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	for name, prog := range p.all() {
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin program %s: %w", name, err)
		}
		if err := prog.Pin(path); err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	return nil
}

// all programs by name; those of the first uplink stand for the others.
func (p *Programs) all() map[string]*ebpf.Program {
	out := map[string]*ebpf.Program{}
	for _, c := range []*ebpf.Collection{p.endpoint, p.overlay, p.net[p.opt.Devices.Uplinks[0].Index], p.sock} {
		if c != nil {
			for name, prog := range c.Programs {
				out[name] = prog
			}
		}
	}
	return out
}

// Devices that the programs were loaded for.
func (p *Programs) Devices() link.Devices { return p.opt.Devices }

// Close lets go of the programs; what is attached goes on running.
func (p *Programs) Close() {
	for _, c := range p.net {
		if c != nil {
			c.Close()
		}
	}
	for _, c := range []*ebpf.Collection{p.endpoint, p.overlay, p.sock} {
		if c != nil {
			c.Close()
		}
	}
	if p.tc != nil {
		p.tc.nl.Close()
	}
}

// Rights says what an agent that is refused something lacks.
const Rights = "the agent lacks rights: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or CAP_SYS_ADMIN)"

// verifierLines is how much of the verifier's log an error shows.
const verifierLines = 20

// explain says what to do about an error of the bpf system call.
func explain(err error) error {
	var v *ebpf.VerifierError
	switch {
	case errors.As(err, &v) && len(v.Log) > 0:
		log := v.Log[max(0, len(v.Log)-verifierLines):]
		return fmt.Errorf("%w: the kernel's verifier refuses the program (release 6.1 or later is needed, this is %s); its last lines:\n%s",
			v.Cause, Release(), strings.Join(log, "\n"))
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s", err, Rights)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: kernel 6.1 or later is needed, this is %s", err, Release())
	}
	return err
}

// Release of the running kernel.
func Release() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return unix.ByteSliceToString(u.Release[:])
}
