// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/lab/internal/cluster"
	"github.com/stentor-net/stentor/lab/internal/plan"
)

func newStatus() *cobra.Command {
	var o plan.Options
	var output string
	cmd := &cobra.Command{
		Use: "status", Short: "Show a lab's nodes and processes", Args: noArgs,
		Long: "Show a lab's nodes and processes. The exit code is 1 if the lab is not up or something is not ready.",
		Example: `  stentor lab status
  stentor lab status -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usageError{fmt.Errorf("-o %q: want table or json", output)}
			}
			lab, err := cluster.Load(o)
			if err != nil {
				return err
			}
			s, err := lab.Status(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(os.Stdout)
				enc.SetIndent("", "  ")
				err = enc.Encode(s)
			} else {
				err = printStatus(os.Stdout, s)
			}
			if err == nil && !s.Healthy() {
				return exitError(1)
			}
			return err
		},
	}
	labFlags(cmd, &o)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func printStatus(out io.Writer, s *cluster.Status) error {
	o := s.Options
	fmt.Fprintf(out, "lab         %s (%d nodes, %s, cni %s, kube-proxy %s)\n", s.Name, len(s.Nodes), o.IPFamily, o.CNI, o.KubeProxy)
	fmt.Fprintf(out, "kubeconfig  %s\n", s.Kubeconfig)
	state := "ready"
	if !s.APIReady {
		state = "not ready"
	}
	fmt.Fprintf(out, "API server  %s, %s, pid %s\n", s.APIServer, state, pid(s.ControlPlane))
	fmt.Fprintf(out, "outside     %s\n\n", strings.Join(s.Outside, ","))
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tREADY\tPID\tADDRESSES\tPOD CIDRS\tNETNS")
	for _, n := range s.Nodes {
		ready := "yes"
		if !n.Ready {
			ready = "no"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, ready, pid(n.Process), strings.Join(n.Addresses, ","), strings.Join(n.PodCIDRs, ","), n.NetNS)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if s.Trouble != "" {
		fmt.Fprintf(out, "\n%s", s.Trouble)
	}
	return nil
}

func pid(p cluster.ProcessStatus) string {
	if !p.Running {
		return "ended"
	}
	return fmt.Sprint(p.Pid)
}

func newExec() *cobra.Command {
	var o plan.Options
	cmd := &cobra.Command{
		Use:   "exec MACHINE -- COMMAND [ARG...]",
		Short: "Run a command on a node, on the outside host or on the fabric",
		Long: `Run a command on a machine of the lab: node1, node2, ..., outside or fabric.

On a node the command sees the node's network, mounts, processes and cgroups;
on outside and fabric only the network is another. The exit code is the
command's.`,
		Example: `  stentor lab exec node1 -- ip route
  stentor lab exec outside -- curl -s http://172.30.0.11:30080/
  stentor lab exec node1 -- bash`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError{errors.New("want MACHINE -- COMMAND [ARG...]")}
			}
			lab, err := cluster.Load(o)
			if err != nil {
				return err
			}
			c, err := lab.Command(args[0], args[1:])
			if err != nil {
				return err
			}
			code, err := c.Run()
			if err != nil {
				fmt.Fprintf(os.Stderr, "stentor-lab: %s: %v\n", args[0], err)
				return exitError(max(code, 1))
			}
			if code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
	labFlags(cmd, &o)
	return cmd
}

func newKubeconfig() *cobra.Command {
	var o plan.Options
	var show bool
	cmd := &cobra.Command{
		Use: "kubeconfig", Short: "Print the path of a lab's kubeconfig", Args: noArgs,
		Example: "  export KUBECONFIG=$(stentor lab kubeconfig)",
		RunE: func(*cobra.Command, []string) error {
			lab, err := cluster.Load(o)
			if err != nil {
				return err
			}
			path := lab.Plan.Kubeconfig()
			if !show {
				_, err = fmt.Println(path)
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(b)
			return err
		},
	}
	labFlags(cmd, &o)
	cmd.Flags().BoolVar(&show, "show", false, "print the file itself")
	return cmd
}

func newLoad() *cobra.Command {
	var o plan.Options
	var cache string
	cmd := &cobra.Command{
		Use:   "load IMAGE",
		Short: "Import an image into all nodes",
		Long: `Import an image into all nodes: an archive that "ctr images import" reads (.tar), or
the name of an image of the lab (stentor:dev, stentor-app:dev), which is built
anew if its binaries changed. Pods use it with imagePullPolicy Never or
IfNotPresent.`,
		Example: `  stentor lab load my-app.tar
  stentor lab load stentor:dev`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("want one IMAGE")}
			}
			lab, err := cluster.Load(o)
			if err != nil {
				return err
			}
			return runLoad(cmd, lab, cache, args[0])
		},
	}
	labFlags(cmd, &o)
	cmd.Flags().StringVar(&cache, "cache", "", "folder for built images (default: .build/images of the source tree)")
	return cmd
}
