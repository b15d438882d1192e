// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// forwardListener serves the listening socket with file descriptor fd: every
// connection is copied, byte by byte, to and from the TCP address target.
// The socket comes from the starter, in another network namespace: this is
// how a kubectl there reaches the API server here.
func forwardListener(ctx context.Context, fd uintptr, target string) error {
	file := os.NewFile(fd, "forward-listener")
	if file == nil {
		return fmt.Errorf("forward: file descriptor %d is not open", fd)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("forward: file descriptor %d: %w", fd, err)
	}
	file.Close()
	go func() {
		<-ctx.Done()
		l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("forward: accept: %w", err)
		}
		go forwardConn(ctx, c, target)
	}
}

func forwardConn(ctx context.Context, c net.Conn, target string) {
	defer c.Close()
	var d net.Dialer
	up, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{up, c}, {c, up}} {
		wg.Go(func() {
			io.Copy(p[0], p[1])
			if t, ok := p[0].(*net.TCPConn); ok {
				t.CloseWrite()
			}
		})
	}
	wg.Wait()
}
