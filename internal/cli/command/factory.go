// SPDX-License-Identifier: Apache-2.0

// Package command holds what every command of the CLI shares.
//
// A command is a file internal/cli/<noun>/<verb>.go with an options struct, a
// constructor NewCmdVerb(f, runF) and a run function. Tests of flags give a
// runF; tests of behaviour give a Factory with streams and an agent of theirs. A
// list without flags of its own is a List.
package command

import (
	"context"
	"io"

	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/kube"
)

// Streams are the three streams of a process.
type Streams struct {
	In  io.Reader
	Out io.Writer // data only
	Err io.Writer // talk
	// Color allows colours on Out: it is a terminal and NO_COLOR is not set.
	Color bool
	// ErrTTY tells that Err is a terminal, on which a line may be drawn again.
	ErrTTY bool
}

// Factory gives commands what they need from outside, each thing made when first
// asked for.
type Factory struct {
	Streams
	// Program is the name that the person typed.
	Program string
	// Version of this program.
	Version string
	// Agent returns the agent of one node. It is a usage error if the choice is open.
	Agent func(context.Context) (*client.Client, error)
	// AnyAgent returns an agent for questions that each node answers alike.
	AnyAgent func(context.Context) (*client.Client, error)
	// Agents returns the agent of this node, or those of all nodes.
	Agents func(context.Context) ([]*client.Client, error)
	// Cluster returns the API server's side; asked for only if Remote.
	Cluster func() (*kube.Cluster, error)
	// Dial makes a client of an agent that Cluster listed.
	Dial func(kube.Agent) *client.Client
	// Remote tells that the CLI speaks through the API server.
	Remote func() bool
	// Node is the node that was named, "" if none was.
	Node func() string
	// Socket is the path of the agent's socket on this node.
	Socket func() string
}
