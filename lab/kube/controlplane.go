// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kcmopts "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	ksched "k8s.io/kubernetes/cmd/kube-scheduler/app"
	schedopts "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// options says how the control plane is reached and which addresses it
// hands out.
type options struct {
	pki       string // folder with the certificates, keys and kubeconfigs
	data      string // etcd's data folder
	advertise string // IP address of the API server for nodes and pods
	bind      string // IP address to listen on
	port      int
	services  string // service CIDRs, IPv4 first, separated by commas
	pods      string // pod CIDRs, in the same order
	forwardFD int    // listening socket to forward to the API server; 0 = none
	features  string // feature gates for the API server
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("control-plane", flag.ContinueOnError)
	fs.StringVar(&o.pki, "pki", "pki", "folder with certificates, keys and kubeconfigs")
	fs.StringVar(&o.data, "data", "etcd", "etcd's data folder")
	fs.StringVar(&o.advertise, "advertise", "127.0.0.1", "address of the API server for nodes and pods")
	fs.StringVar(&o.bind, "bind", "0.0.0.0", "address to listen on")
	fs.IntVar(&o.port, "port", 6443, "port of the API server")
	fs.StringVar(&o.services, "service-cidr", "10.96.0.0/16", "service CIDRs, separated by commas")
	fs.StringVar(&o.pods, "pod-cidr", "10.244.0.0/16", "pod CIDRs, separated by commas")
	fs.IntVar(&o.forwardFD, "forward-fd", 0, "listening socket whose connections go to the API server")
	fs.StringVar(&o.features, "feature-gates", "", "feature gates of the API server")
	return o, fs.Parse(args)
}

func (o options) apiserverArgs() []string {
	pki := o.pki
	args := []string{
		"--etcd-servers=" + etcdEndpoint,
		"--bind-address=" + o.bind, "--advertise-address=" + o.advertise, fmt.Sprintf("--secure-port=%d", o.port),
		"--tls-cert-file=" + pki + "/apiserver.crt", "--tls-private-key-file=" + pki + "/apiserver.key",
		"--client-ca-file=" + pki + "/ca.crt",
		"--requestheader-client-ca-file=" + pki + "/front-proxy-ca.crt",
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + pki + "/front-proxy-client.crt",
		"--proxy-client-key-file=" + pki + "/front-proxy-client.key",
		"--kubelet-client-certificate=" + pki + "/kubelet-client.crt",
		"--kubelet-client-key=" + pki + "/kubelet-client.key",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-key-file=" + pki + "/sa.pub",
		"--service-account-signing-key-file=" + pki + "/sa.key",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-cluster-ip-range=" + o.services,
		"--allow-privileged=true", "--profiling=false", "--enable-aggregator-routing=true",
	}
	if o.features != "" {
		args = append(args, "--feature-gates="+o.features)
	}
	return args
}

// loopback is where the other parts of this process reach the API server.
func (o options) loopback() string {
	if ip := net.ParseIP(o.bind); ip != nil && ip.To4() == nil {
		return net.JoinHostPort("::1", fmt.Sprint(o.port))
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(o.port))
}

func (o options) clientArgs(name string) []string {
	k := o.pki + "/" + name + ".kubeconfig"
	return []string{
		"--kubeconfig=" + k, "--authentication-kubeconfig=" + k, "--authorization-kubeconfig=" + k,
		"--bind-address=" + o.bind, "--leader-elect=false",
		// The defaults make the start wait seconds for tokens.
		"--kube-api-qps=500", "--kube-api-burst=1000",
	}
}

func (o options) controllerArgs() []string {
	args := append(o.clientArgs("controller-manager"),
		"--use-service-account-credentials=true",
		"--root-ca-file="+o.pki+"/ca.crt",
		"--service-account-private-key-file="+o.pki+"/sa.key",
		"--cluster-signing-cert-file="+o.pki+"/ca.crt",
		"--cluster-signing-key-file="+o.pki+"/ca.key",
		"--controllers=*,-cloud-node-lifecycle-controller,-service-lb-controller,-node-route-controller",
		"--allocate-node-cidrs=true", "--cluster-cidr="+o.pods, "--service-cluster-ip-range="+o.services,
	)
	if strings.Contains(o.pods, ",") {
		return append(args, "--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64")
	}
	if strings.Contains(o.pods, ":") {
		return append(args, "--node-cidr-mask-size=64")
	}
	return append(args, "--node-cidr-mask-size=24")
}

// controlPlane runs until a signal or until one part ends.
func controlPlane(args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	started := time.Now()
	note := func(what string) { fmt.Printf("T+%.2fs %s\n", time.Since(started).Seconds(), what) }
	etcd, err := startEtcd(ctx, o.data)
	if err != nil {
		return err
	}
	defer etcd.Close()
	note("etcd ready")
	g, ctx := errgroup.WithContext(ctx)
	if o.forwardFD > 0 {
		g.Go(func() error { return forwardListener(ctx, uintptr(o.forwardFD), o.loopback()) })
	}
	g.Go(func() error {
		cmd := apiserver.NewAPIServerCommand()
		cmd.SilenceUsage = true
		cmd.SetArgs(o.apiserverArgs())
		return ended("kube-apiserver", cmd.ExecuteContext(ctx))
	})
	if err := waitReady(ctx, o.loopback()); err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	note("kube-apiserver ready")
	g.Go(func() error { return ended("kube-controller-manager", runControllers(ctx, o.controllerArgs())) })
	g.Go(func() error { return ended("kube-scheduler", runScheduler(ctx, o.clientArgs("scheduler"))) })
	return g.Wait()
}

// ended makes the end of a part, even a quiet one, an error: the whole
// control plane goes down together.
func ended(part string, err error) error {
	if err == nil {
		return fmt.Errorf("%s: ended", part)
	}
	return fmt.Errorf("%s: %w", part, err)
}

func waitReady(ctx context.Context, addr string) error {
	hc := &http.Client{
		// The answer is only a status code of this very process.
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		Timeout:   2 * time.Second,
	}
	defer hc.CloseIdleConnections()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := hc.Get("https://" + addr + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// The commands of the controller manager and the scheduler each install a
// signal handler, which works once per process; so both are set up from
// their options here.

func runControllers(ctx context.Context, args []string) error {
	o, err := kcmopts.NewKubeControllerManagerOptions()
	if err != nil {
		return err
	}
	named := o.Flags(kcm.KnownControllers(), kcm.ControllersDisabledByDefault(), kcm.ControllerAliases())
	o.ParsedFlags = &named
	fs := pflag.NewFlagSet("kube-controller-manager", pflag.ContinueOnError)
	for _, f := range named.FlagSets {
		fs.AddFlagSet(f)
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	c, err := o.Config(ctx, kcm.KnownControllers(), kcm.ControllersDisabledByDefault(), kcm.ControllerAliases())
	if err != nil {
		return err
	}
	return kcm.Run(ctx, c.Complete())
}

func runScheduler(ctx context.Context, args []string) error {
	o := schedopts.NewOptions()
	fs := pflag.NewFlagSet("kube-scheduler", pflag.ContinueOnError)
	for _, f := range o.Flags.FlagSets {
		fs.AddFlagSet(f)
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	cc, sched, err := ksched.Setup(ctx, o)
	if err != nil {
		return err
	}
	return ksched.Run(ctx, cc, sched)
}
