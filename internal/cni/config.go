// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/stentor-net/stentor/api/rest"
)

// Config is our entry of a network's configuration list.
type Config struct {
	types.PluginConf

	// Socket of the agent. Default rest.DefaultSocket.
	Socket string `json:"socket,omitempty"`
	// WaitSeconds is how long ADD waits for an agent that is away. Default 60.
	WaitSeconds int `json:"waitSeconds,omitempty"`
}

const (
	defaultWait = 60 * time.Second
	maxWait     = 10 * time.Minute
)

// parseConfig decodes the configuration; errors carry the code 6 or 7.
func parseConfig(stdin []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "decode the network configuration", err.Error())
	}
	if c.Socket == "" {
		c.Socket = rest.DefaultSocket
	}
	if !filepath.IsAbs(c.Socket) {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, `"socket" is not an absolute path`, c.Socket)
	}
	if c.WaitSeconds < 0 || time.Duration(c.WaitSeconds)*time.Second > maxWait {
		return nil, types.NewError(types.ErrInvalidNetworkConfig,
			fmt.Sprintf(`"waitSeconds" is not between 0 and %d`, int(maxWait.Seconds())), "")
	}
	return c, nil
}

func (c *Config) wait() time.Duration {
	if c.WaitSeconds == 0 {
		return defaultWait
	}
	return time.Duration(c.WaitSeconds) * time.Second
}

// previous returns the result of the plugins before us, nil if there are none.
func (c *Config) previous() (*current.Result, error) {
	if c.RawPrevResult == nil {
		return nil, nil
	}
	invalid := func(err error) error {
		return types.NewError(types.ErrInvalidNetworkConfig, `"prevResult" is not a result of the given version`, err.Error())
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, invalid(err)
	}
	res, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, invalid(err)
	}
	return res, nil
}

// request names the attachment to the agent.
func request(args *skel.CmdArgs) (rest.CNIRequest, error) {
	req := rest.CNIRequest{ContainerID: args.ContainerID, NetNS: args.Netns, IfName: args.IfName}
	for pair := range strings.SplitSeq(args.Args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return req, types.NewError(types.ErrInvalidEnvironmentVariables,
				"CNI_ARGS is not a list of KEY=VALUE;KEY=VALUE", pair)
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			req.PodNamespace = value
		case "K8S_POD_NAME":
			req.PodName = value
		case "K8S_POD_UID":
			req.PodUID = value
		}
	}
	if (req.PodNamespace == "") != (req.PodName == "") {
		return req, types.NewError(types.ErrInvalidEnvironmentVariables,
			"CNI_ARGS has only one of K8S_POD_NAMESPACE and K8S_POD_NAME", args.Args)
	}
	return req, nil
}

// result makes the specification's result out of the agent's.
func result(req rest.CNIRequest, got rest.CNIResult) (*current.Result, error) {
	if len(got.Addresses) == 0 {
		return nil, types.NewError(types.ErrInternal, "the agent gives no address", "")
	}
	const inContainer = 1 // index in Interfaces
	res := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			{Name: got.HostIfName, Mac: got.HostMAC, Mtu: got.MTU},
			{Name: req.IfName, Mac: got.MAC, Mtu: got.MTU, Sandbox: req.NetNS},
		},
	}
	for _, a := range got.Addresses {
		prefix, err := netip.ParsePrefix(a.Address)
		if err != nil {
			return nil, types.NewError(types.ErrInternal, "the agent gives a wrong address", err.Error())
		}
		ip := &current.IPConfig{Interface: current.Int(inContainer), Address: ipNet(prefix)}
		if a.Gateway != "" {
			gateway, err := netip.ParseAddr(a.Gateway)
			if err != nil {
				return nil, types.NewError(types.ErrInternal, "the agent gives a wrong gateway", err.Error())
			}
			ip.Gateway = gateway.AsSlice()
		}
		res.IPs = append(res.IPs, ip)
	}
	for _, r := range got.Routes {
		dst, err := netip.ParsePrefix(r.Dst)
		if err != nil {
			return nil, types.NewError(types.ErrInternal, "the agent gives a wrong route", err.Error())
		}
		route := &types.Route{Dst: ipNet(dst), MTU: r.MTU}
		if r.GW != "" {
			gateway, err := netip.ParseAddr(r.GW)
			if err != nil {
				return nil, types.NewError(types.ErrInternal, "the agent gives a wrong route", err.Error())
			}
			route.GW = gateway.AsSlice()
		}
		res.Routes = append(res.Routes, route)
	}
	return res, nil
}
