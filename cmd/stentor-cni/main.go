// SPDX-License-Identifier: Apache-2.0

// Command stentor-cni is the CNI plugin that container runtimes run for every pod.
package main

import (
	"os"

	"github.com/stentor-net/stentor/internal/cni"
)

func main() { os.Exit(cni.Main("stentor-cni connects pods to the Stentor agent of the node")) }
