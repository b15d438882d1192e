// SPDX-License-Identifier: Apache-2.0

package http

import (
	"io"
	"time"
)

// tunnel passes bytes both ways after a switch of protocols or a CONNECT, until
// both sides have ended. The answer's head of end bytes is sent first.
func (c *conn) tunnel(end int) {
	if c.client.write(c.server.unread()[:end], c.now, c.limits.Write) != nil {
		return
	}
	c.server.use(end)
	c.rest()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.oneWay(&c.server, &c.client)
	}()
	c.oneWay(&c.client, &c.server)
	<-done
}

// oneWay passes bytes until src ends, and then tells dst. What fails ends both ways.
func (c *conn) oneWay(dst, src *side) {
	src.until(time.Time{})
	for {
		if b := src.unread(); len(b) > 0 {
			if dst.write(b, time.Now(), c.limits.Write) != nil {
				c.abort()
				return
			}
			src.use(len(b))
		}
		if err := src.read(); err == io.EOF {
			if dst.closeWrite() != nil {
				c.abort()
			}
			return
		} else if err != nil {
			c.abort()
			return
		}
	}
}
