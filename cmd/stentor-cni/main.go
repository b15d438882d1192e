// SPDX-License-Identifier: Apache-2.0

// Command stentor-cni is the CNI plugin that container runtimes run for every pod.
package main

import (
	"os"

	"github.com/stentor-net/stentor/internal/cni"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(cni.Main("CNI plugin stentor-cni " + version)) }
