// SPDX-License-Identifier: Apache-2.0

// Command stentor-app is the program of test pods: servers, clients and
// measuring tools for the network, in one static binary.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

// command is a subcommand: it gets its own arguments and returns an error
// that becomes the exit code.
type command struct {
	name, args, help string
	run              func(ctx context.Context, args []string) error
}

var commands = []command{
	{"http", "[-listen ADDR]...", "HTTP server: /ip /hostname /headers /status/N /echo /bytes/N /delay/MS and the Death Star's API below /v1/", runHTTP},
	{"get", "[flags] URL", "HTTP client", runGet},
	{"serve", "[-offset N]", "http on 80, tcp-echo and udp-echo on 7, stream-recv on 9000", runServe},
	{"tcp-echo", "[-listen ADDR]", "TCP server that sends back what it gets", runTCPEcho},
	{"udp-echo", "[-listen ADDR]", "UDP server that sends back what it gets", runUDPEcho},
	{"tcp", "[flags] HOST:PORT", "send a line over TCP and print the answer", runTCPClient},
	{"udp", "[flags] HOST:PORT", "send a datagram and print the answer", runUDPClient},
	{"stream-recv", "[-listen ADDR]", "receiver of numbered packets, over UDP and TCP", runStreamRecv},
	{"stream-send", "[flags] HOST:PORT", "sender of numbered packets; prints what was lost and the longest silence", runStreamSend},
	{"load", "[flags] URL", "many HTTP requests, on short connections and on ones that are kept; prints how they ended", runLoad},
	{"dns", "[flags] NAME", "look a name up", runDNS},
	{"ping", "[flags] HOST", "ICMP echo", runPing},
	{"probe", "[flags] TARGET...", "try http://, tcp://, udp:// and ping:// targets all at once", runProbe},
	{"rights", "[flags]", "try what a network agent's pod must be able to do with BPF", runRights},
	{"sleep", "", "wait for a signal", runSleep},
}

// exitCode is an error with an exit code of its own.
type exitCode struct {
	code int
	err  error
}

func (e exitCode) Error() string { return e.err.Error() }
func (e exitCode) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	if len(args) == 0 {
		usage()
		os.Exit(2)
	}
	for _, c := range commands {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, args[1:])
		var x exitCode
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return
		case errors.As(err, &x):
		default:
			x.code = 1
		}
		fmt.Fprintf(os.Stderr, "stentor-app %s: %v\n", c.name, err)
		os.Exit(x.code)
	}
	usage()
	os.Exit(2)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: stentor-app COMMAND [flags]; -h after a command lists its flags")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-12s %-20s %s\n", c.name, c.args, c.help)
	}
}

func runSleep(ctx context.Context, _ []string) error {
	<-ctx.Done()
	return nil
}

// listen opens a plain TCP listener for both families. Go's default is MPTCP,
// which is another socket to the kernel and to BPF.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", addr)
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
