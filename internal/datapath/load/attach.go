// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our filters: first on the hook, under a handle that nobody else is likely to choose.
const (
	filterHandle   = 0x5374
	filterPriority = 1
	filterPrefix   = "stentor_"
)

// attacher puts programs on devices of the namespace in which it was made.
type attacher struct {
	nl   *netlink.Handle
	mu   sync.Mutex
	done map[int]bool // devices that have the endpoint programs of this process
}

func newAttacher() (*attacher, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &attacher{nl: h, done: map[int]bool{}}, nil
}

// hook of a device, as netlink names it.
type hook uint32

const (
	ingress hook = netlink.HANDLE_MIN_INGRESS
	egress  hook = netlink.HANDLE_MIN_EGRESS
)

func (h hook) String() string {
	if h == ingress {
		return "ingress"
	}
	return "egress"
}

// both attaches a pair of programs, each by one message that replaces what was
// there without a packet going past.
func (a *attacher) both(index int, in, out *ebpf.Program, inName, outName string) error {
	if err := a.nl.QdiscAdd(clsact(index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to device %d: %w", index, explain(err))
	}
	for _, p := range []struct {
		hook hook
		prog *ebpf.Program
		name string
	}{{ingress, in, inName}, {egress, out, outName}} {
		f := &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: uint32(p.hook), Handle: filterHandle,
			Protocol: unix.ETH_P_ALL, Priority: filterPriority}, Fd: p.prog.FD(), Name: filterPrefix + p.name, DirectAction: true}
		if err := a.nl.FilterReplace(f); err != nil {
			return fmt.Errorf("attach %s to %s of device %d: %w", p.name, p.hook, index, explain(err))
		}
	}
	return nil
}

// EnsureEndpoint is AttachEndpoint unless this process has attached them already.
func (p *Programs) EnsureEndpoint(index int) error {
	p.tc.mu.Lock()
	done := p.tc.done[index]
	p.tc.mu.Unlock()
	if done {
		return nil
	}
	return p.AttachEndpoint(index)
}

// AttachEndpoint puts the endpoint programs on the host's side of a pod's veth.
func (p *Programs) AttachEndpoint(index int) error {
	p.tc.mu.Lock()
	defer p.tc.mu.Unlock()
	if err := p.tc.both(index, p.endpoint.Programs["from_pod"], p.endpoint.Programs["to_pod"], "from_pod", "to_pod"); err != nil {
		return err
	}
	p.tc.done[index] = true
	return nil
}

// AttachNode puts the programs on the overlay, the uplinks and the cgroup.
func (p *Programs) AttachNode() error {
	d := p.opt.Devices
	if p.overlay != nil {
		if err := p.tc.both(d.Overlay.Index, p.overlay.Programs["from_overlay"], p.overlay.Programs["to_overlay"], "from_overlay", "to_overlay"); err != nil {
			return err
		}
	}
	for _, u := range d.Uplinks {
		c := p.net[u.Index]
		if err := p.tc.both(u.Index, c.Programs["from_net"], c.Programs["to_net"], "from_net", "to_net"); err != nil {
			return err
		}
	}
	return p.attachSockets()
}

// Lost tells whether one of the devices has lost a program of ours, such as
// after someone has deleted its qdisc.
func (p *Programs) Lost(devices ...int) (bool, error) {
	for _, d := range devices {
		for _, h := range []hook{ingress, egress} {
			filters, err := p.tc.filters(d, h)
			if err != nil {
				return false, err
			}
			if !hasOurs(filters) {
				return true, nil
			}
		}
	}
	return false, nil
}

// NodeDevices are the numbers of the devices that AttachNode puts programs on.
func (p *Programs) NodeDevices() (out []int) {
	for _, u := range p.opt.Devices.Uplinks {
		out = append(out, u.Index)
	}
	if p.overlay != nil {
		out = append(out, p.opt.Devices.Overlay.Index)
	}
	return out
}

func hasOurs(filters []netlink.Filter) bool {
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterPrefix) {
			return true
		}
	}
	return false
}

func (a *attacher) filters(index int, h hook) ([]netlink.Filter, error) {
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for try := 0; ; try++ {
		list, err := a.nl.FilterList(dev, uint32(h))
		if errors.Is(err, netlink.ErrDumpInterrupted) && try < 8 {
			continue
		}
		if errors.Is(err, unix.EINVAL) { // no qdisc
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list filters of device %d: %w", index, err)
		}
		return list, nil
	}
}

// Detach removes our filters from every device of the calling thread's
// namespace, and the qdisc with them if nobody else has a filter on it.
func Detach() error {
	a, err := newAttacher()
	if err != nil {
		return err
	}
	defer a.nl.Close()
	links, err := a.nl.LinkList()
	for try := 0; errors.Is(err, netlink.ErrDumpInterrupted) && try < 8; try++ { // devices come and go meanwhile
		links, err = a.nl.LinkList()
	}
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		// A device that has gone meanwhile has taken its programs along.
		if err := a.detach(l); err != nil && !a.isGone(l) {
			errs = append(errs, fmt.Errorf("detach from %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

func (a *attacher) isGone(l netlink.Link) bool {
	_, err := a.nl.LinkByIndex(l.Attrs().Index)
	return errors.As(err, &netlink.LinkNotFoundError{})
}

func (a *attacher) detach(l netlink.Link) error {
	var errs []error
	ours, foreign := 0, 0
	for _, h := range []hook{ingress, egress} {
		filters, err := a.filters(l.Attrs().Index, h)
		errs = append(errs, err)
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterPrefix) {
				ours++
				errs = append(errs, a.nl.FilterDel(f))
			} else {
				foreign++
			}
		}
	}
	if ours > 0 && foreign == 0 {
		errs = append(errs, a.nl.QdiscDel(clsact(l.Attrs().Index)))
	}
	return errors.Join(errs...)
}

func clsact(index int) *netlink.GenericQdisc {
	return &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index,
		Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}
