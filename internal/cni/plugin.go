// SPDX-License-Identifier: Apache-2.0

// Package cni is the CNI plugin: it turns a call of the container runtime into one call of the agent's socket.
//
// It keeps no state but two things in the agent's run directory (package
// rundir): deletions asked for while the agent was away, and when the agent was
// last seen ready. Standard output carries the result or the error as JSON and
// nothing else.
package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cni/rundir"
)

const (
	addTimeout   = 75 * time.Second // longer than the agent takes to say that it is too long
	callTimeout  = 15 * time.Second
	probeTimeout = 2 * time.Second
	awayTooLong  = 30 * time.Second // an agent may restart for so long before STATUS complains
)

// Plugin carries out the verbs of the specification. The zero value is ready.
type Plugin struct {
	printed types.Result // what ADD has to print
}

// Add makes the attachment.
func (p *Plugin) Add(args *skel.CmdArgs) error {
	conf, req, err := p.prepare(args)
	if err != nil {
		return err
	}
	if conf.RawPrevResult != nil {
		return types.NewError(types.ErrInvalidNetworkConfig, conf.Type+" must be the first plugin of the list", "")
	}
	if err := foreignNetNS(args); err != nil {
		return err
	}
	c := client{socket: conf.Socket, timeout: addTimeout}
	var got rest.CNIResult
	if err := c.callPatiently(conf.wait(), "PUT", rest.PathCNIAdd, req, &got); err != nil {
		return cniError("add the pod's interface", err)
	}
	res, err := result(req, got)
	if err != nil {
		return err
	}
	if p.printed, err = res.GetAsVersion(conf.CNIVersion); err != nil {
		return types.NewError(types.ErrIncompatibleCNIVersion, "convert the result to "+conf.CNIVersion, err.Error())
	}
	return nil
}

// Del removes the attachment. While the agent is away the deletion is queued,
// since a pod must be able to end at any time.
func (p *Plugin) Del(args *skel.CmdArgs) error {
	conf, req, err := p.prepare(args)
	if err != nil {
		return err
	}
	c := client{socket: conf.Socket, timeout: callTimeout}
	del := func() error { return c.call("PUT", rest.PathCNIDel, req, nil) }
	err = del()
	if !away(err) {
		return cniError("delete the pod's interface", err)
	}
	dir := rundir.Dir(filepath.Dir(conf.Socket))
	if err := dir.QueueDeletion(req); err != nil {
		return types.NewError(types.ErrTryAgainLater, "the agent is away", err.Error())
	}
	// The agent may have come and drained the queue just before: see rundir.
	err = del()
	if away(err) {
		return nil
	}
	if err != nil {
		return cniError("delete the pod's interface", err)
	}
	return ioError(dir.ForgetDeletion(req))
}

// Check compares the attachment with what ADD returned.
func (p *Plugin) Check(args *skel.CmdArgs) error {
	conf, req, err := p.prepare(args)
	if err != nil {
		return err
	}
	prev, err := conf.previous()
	if err != nil {
		return err
	}
	if prev == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, `CHECK needs "prevResult"`, "")
	}
	if req.Addresses, err = ownAddresses(prev, req); err != nil {
		return err
	}
	c := client{socket: conf.Socket, timeout: callTimeout}
	return cniError("check the pod's interface", c.call("PUT", rest.PathCNICheck, req, nil))
}

// GC tells the agent which attachments are in use.
func (p *Plugin) GC(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	req := rest.CNIGCRequest{ValidAttachments: []rest.CNIAttachment{}}
	for _, a := range conf.ValidAttachments {
		req.ValidAttachments = append(req.ValidAttachments, rest.CNIAttachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	c := client{socket: conf.Socket, timeout: callTimeout}
	return cniError("collect unused interfaces", c.call("PUT", rest.PathCNIGC, req, nil))
}

// Status tells whether ADD would work. A short absence of the agent is not
// reported, because ADD waits: only one that was never ready, says that it is
// not able, or is away for long.
func (p *Plugin) Status(args *skel.CmdArgs) error {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	c := client{socket: conf.Socket, timeout: probeTimeout}
	dir := rundir.Dir(filepath.Dir(conf.Socket))
	err = c.call("GET", rest.PathCNIStatus, nil, nil)
	if err == nil {
		return ioError(dir.Beat())
	}
	if !away(err) && !errors.Is(err, errNoAnswer) {
		return cniError("ask the agent", err)
	}
	last, ever := dir.LastBeat()
	switch {
	case !ever:
		return types.NewError(types.ErrPluginNotAvailable, "the agent was never ready on this node", err.Error())
	case time.Since(last) > awayTooLong:
		return types.NewError(types.ErrPluginNotAvailable,
			fmt.Sprintf("the agent is away for %v", time.Since(last).Round(time.Second)), err.Error())
	}
	return nil
}

func (p *Plugin) prepare(args *skel.CmdArgs) (*Config, rest.CNIRequest, error) {
	conf, err := parseConfig(args.StdinData)
	if err != nil {
		return nil, rest.CNIRequest{}, err
	}
	req, err := request(args)
	return conf, req, err
}

// foreignNetNS refuses to put a pod's interface into what is no namespace, or
// into the node's own. The skeleton checks the latter too, but only after ADD.
func foreignNetNS(args *skel.CmdArgs) error {
	if override := strings.ToUpper(args.NetnsOverride); override == "TRUE" || override == "1" {
		return nil
	}
	// What is no namespace would only come back from the agent as "not done".
	var fs unix.Statfs_t
	if err := unix.Statfs(args.Netns, &fs); err != nil {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is not there", args.Netns+": "+err.Error())
	}
	if fs.Type != unix.NSFS_MAGIC {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is not a network namespace", args.Netns)
	}
	same, err := ns.CheckNetNS(args.Netns)
	if err != nil {
		return err
	}
	if same {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the plugin's own network namespace", args.Netns)
	}
	return nil
}

// ownAddresses lists the addresses that a result gives to the request's
// interface in the container.
func ownAddresses(prev *current.Result, req rest.CNIRequest) ([]string, error) {
	own := -1
	for i, iface := range prev.Interfaces {
		if iface != nil && iface.Name == req.IfName && iface.Sandbox != "" {
			own = i
		}
	}
	if own < 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig,
			`"prevResult" has no interface `+req.IfName+" in a sandbox", "")
	}
	if sandbox := prev.Interfaces[own].Sandbox; sandbox != req.NetNS {
		return nil, types.NewError(types.ErrInvalidNetNS,
			"the interface was made in another network namespace", sandbox+" is not "+req.NetNS)
	}
	var out []string
	for _, ip := range prev.IPs {
		if ip != nil && ip.Interface != nil && *ip.Interface == own {
			out = append(out, ip.Address.String())
		}
	}
	if len(out) == 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig,
			`"prevResult" has no address of the interface `+req.IfName, "")
	}
	return out, nil
}

func ioError(err error) error {
	if err == nil {
		return nil
	}
	return types.NewError(types.ErrIOFailure, err.Error(), "")
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
