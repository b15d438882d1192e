// SPDX-License-Identifier: Apache-2.0

// Command stentor is every role of Stentor in one binary: agent, operator and
// the command line. The CNI plugin is a binary of its own, cmd/stentor-cni.
package main

import (
	"os"

	"github.com/stentor-net/stentor/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[0], os.Args[1:])) }
