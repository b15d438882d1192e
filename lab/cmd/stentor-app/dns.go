// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// runDNS prints one answer per line, sorted.
func runDNS(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("dns", flag.ContinueOnError)
	kind := fs.String("type", "IP", "A, AAAA, IP (both), CNAME, SRV, TXT or PTR")
	server := fs.String("server", "", "HOST:PORT to ask instead of those of /etc/resolv.conf")
	tcp := fs.Bool("tcp", false, "ask over TCP")
	timeout := fs.Duration("timeout", 5*time.Second, "for the answer")
	if err := fs.Parse(args); err != nil {
		return exitCode{2, err}
	}
	if fs.NArg() != 1 {
		return exitCode{2, errors.New("want one NAME")}
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if *server != "" {
			addr = *server
		}
		if *tcp {
			network = "tcp"
		}
		var d net.Dialer
		d.SetMultipathTCP(false)
		return d.DialContext(ctx, network, addr)
	}}
	out, err := lookup(ctx, r, strings.ToUpper(*kind), fs.Arg(0))
	if err != nil {
		var d *net.DNSError
		if errors.As(err, &d) && d.IsTimeout {
			return exitCode{exitTimeout, err}
		}
		return exitCode{exitResolve, err}
	}
	slices.Sort(out)
	for _, line := range out {
		fmt.Println(line)
	}
	return nil
}

func lookup(ctx context.Context, r *net.Resolver, kind, name string) (out []string, err error) {
	networks := map[string]string{"A": "ip4", "AAAA": "ip6", "IP": "ip"}
	switch kind {
	case "A", "AAAA", "IP":
		ips, err := r.LookupNetIP(ctx, networks[kind], name)
		for _, ip := range ips {
			out = append(out, ip.Unmap().String())
		}
		return out, err
	case "CNAME":
		c, err := r.LookupCNAME(ctx, name)
		return []string{c}, err
	case "TXT":
		return r.LookupTXT(ctx, name)
	case "PTR":
		return r.LookupAddr(ctx, name)
	case "SRV":
		_, srvs, err := r.LookupSRV(ctx, "", "", name)
		for _, s := range srvs {
			out = append(out, fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		}
		return out, err
	}
	return nil, fmt.Errorf("type %q: want A, AAAA, IP, CNAME, SRV, TXT or PTR", kind)
}
