// SPDX-License-Identifier: Apache-2.0

package http

// preface begins a connection of HTTP/2 with prior knowledge (RFC 9113, 3.4).
// Its first part looks like a head.
const (
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	prefaceHead = 18
)

func (c *conn) serveHTTP2() error {
	c.refuse(errVersion)
	return nil
}
