// SPDX-License-Identifier: Apache-2.0

// Package api holds the commands that speak with an agent's socket as it is.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/api/rest"
	"github.com/stentor-net/stentor/internal/cli/client"
	"github.com/stentor-net/stentor/internal/cli/command"
)

// Options of `api`.
type Options struct {
	command.Streams
	Agent func(context.Context) (*client.Client, error)

	Method, Path string
	Data         string
}

// NewCmd makes `api`.
func NewCmd(f *command.Factory, runF func(context.Context, *Options) error) *cobra.Command {
	o := &Options{Streams: f.Streams, Agent: f.Agent}
	cmd := &cobra.Command{
		Use:   "api METHOD PATH",
		Short: "Send one request to an agent and print its answer",
		Long: `Send one request to an agent and print the body of its answer. Paths begin with
/v1. An answer with a status of 400 or more ends with exit code 1.`,
		Example: `  stentor api GET /v1/healthz
  stentor api PATCH /v1/config -d '{"policy-enforcement":"always"}'
  stentor api PUT /v1/cni/check -d @request.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 || !strings.HasPrefix(args[1], "/") {
				return command.Usagef("%s needs METHOD and a PATH that begins with /", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Method, o.Path = strings.ToUpper(args[0]), args[1]
			if runF != nil {
				return runF(cmd.Context(), o)
			}
			return run(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVarP(&o.Data, "data", "d", "", "body of the request; @FILE reads a file, @- standard input")
	return cmd
}

func run(ctx context.Context, o *Options) error {
	body, err := data(o)
	if err != nil {
		return err
	}
	u, err := url.Parse(o.Path)
	if err != nil {
		return command.Usagef("path: %v", err)
	}
	agent, err := o.Agent(ctx)
	if err != nil {
		return err
	}
	resp, err := agent.Do(ctx, o.Method, u.EscapedPath(), u.Query(), body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(o.Out, resp.Body); err != nil && ctx.Err() == nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

func data(o *Options) ([]byte, error) {
	switch file, isFile := strings.CutPrefix(o.Data, "@"); {
	case o.Data == "":
		return nil, nil
	case !isFile:
		return []byte(o.Data), nil
	case file == "-":
		return io.ReadAll(o.In)
	default:
		return os.ReadFile(file)
	}
}

// NewCmdDial makes the hidden `dial`, by which the CLI of another machine reaches
// the socket through an exec.
func NewCmdDial(f *command.Factory) *cobra.Command {
	flows := false
	cmd := &cobra.Command{
		Use: "dial", Hidden: true, Args: command.NoArgs,
		Short: "Connect standard input and output with the agent's socket",
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := f.Socket()
			if flows {
				path = filepath.Join(filepath.Dir(path), rest.FlowSocket)
			}
			conn, err := client.Socket(path)(cmd.Context())
			if err != nil {
				return err
			}
			return splice(conn, f.In, f.Out)
		},
	}
	cmd.Flags().BoolVar(&flows, "flows", false, "with the socket of the observer")
	return cmd
}

// splice ends when the agent has nothing more to say.
func splice(conn net.Conn, in io.Reader, out io.Writer) error {
	go func() {
		_, _ = io.Copy(conn, in)
		if half, ok := conn.(*net.UnixConn); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err := io.Copy(out, conn)
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, conn.Close())
}
