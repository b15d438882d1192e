// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/stentor-net/stentor/lab/internal/cgroup"
	"github.com/stentor-net/stentor/lab/internal/node"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

// Command prepares to run args on a machine of the lab: a node, "outside" or
// "fabric".
func (l *Lab) Command(machine string, args []string) (node.Command, error) {
	hs, err := cgroup.Hierarchies()
	if err != nil {
		return node.Command{}, err
	}
	c := node.Command{Args: args, Cgroups: hs, Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}
	switch machine {
	case "fabric", "outside":
		c.NetNS = l.Plan.FabricNS
		if machine == "outside" {
			c.NetNS = l.Plan.OutsideNS
		}
		c.Cgroup = l.Plan.Cgroup + "/" + machine
		return c, cgroup.Create(hs, c.Cgroup)
	}
	n, ok := l.Plan.Node(machine)
	if !ok {
		return c, fmt.Errorf("lab %q has no machine %q; it has %s", l.Plan.Name, machine, strings.Join(l.machines(), ", "))
	}
	p := l.state.Nodes[n.Name]
	if !p.alive() {
		return c, fmt.Errorf("%s is not running (stentor lab up --name %s starts the lab anew)", n.Name, l.Plan.Name)
	}
	c.Pid = p.Pid
	c.Cgroup = cgroup.Leaf(hs, l.Plan.Cgroup+"/"+n.Name)
	return c, nil
}

func (l *Lab) machines() []string {
	var out []string
	for _, n := range l.Plan.Nodes {
		out = append(out, n.Name)
	}
	return append(out, "outside", "fabric")
}

// LoadArchive imports an image archive of this machine into all nodes.
func (l *Lab) LoadArchive(ctx context.Context, path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return loadArchive(ctx, l.Plan, self, path)
}

func (b *builder) loadArchive(ctx context.Context, path string) error {
	return loadArchive(ctx, b.Plan, filepath.Join(b.BinDir, "stentor-lab"), path)
}

// loadArchive gives the archive to each node's containerd by "exec": a
// process that has entered one node cannot enter the next.
func loadArchive(ctx context.Context, p *plan.Plan, self, path string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range p.Nodes {
		g.Go(func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			cmd := selfCommand(ctx, self, p, n.Name, "ctr", "-n", "k8s.io", "images", "import", "-")
			cmd.Stdin = f
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s: import %s: %w: %s", n.Name, filepath.Base(path), err, strings.TrimSpace(string(out)))
			}
			return nil
		})
	}
	return g.Wait()
}

func selfCommand(ctx context.Context, self string, p *plan.Plan, machine string, args ...string) *exec.Cmd {
	all := append([]string{"exec", "--name", p.Name, "--state-dir", p.StateRoot, machine, "--"}, args...)
	return exec.CommandContext(ctx, self, all...)
}
