// SPDX-License-Identifier: Apache-2.0

// Command stentor-lab makes Kubernetes clusters on one machine.
package main

import (
	"os"

	"github.com/stentor-net/stentor/lab/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
