// Command stentor is every role of Stentor in one binary: agent, operator and
// the command line. The CNI plugin is a binary of its own, cmd/stentor-cni.
package main

import "fmt"

func main() {
	fmt.Println("stentor")
}
