// SPDX-License-Identifier: Apache-2.0

package http

import "bytes"

// Bounds of a chunked body beside its data.
const (
	maxSizeDigits  = 15
	maxExtension   = 1 << 10 // bytes of a chunk's line after the size
	maxTrailerSize = 8 << 10
)

// chunks follows a chunked body (RFC 9112, 7.1) without changing it.
type chunks struct {
	state chunkState
	left  int64 // of the chunk's data
	count int   // digits, or bytes of extensions or of trailers
	line  int   // bytes of the trailer line so far
	begin [20]byte
}

type chunkState uint8

const (
	chunkSize chunkState = iota // digits
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerLine
	trailerLF
	chunkDone
)

// next says how many bytes of b belong to the body, and whether it ends there.
func (c *chunks) next(b []byte) (n int, done bool, err error) {
	for n < len(b) {
		if c.state == chunkData {
			take := min(int64(len(b)-n), c.left)
			n += int(take)
			if c.left -= take; c.left == 0 {
				c.state = chunkDataCR
			}
			continue
		}
		if err := c.step(b[n]); err != nil {
			return n, false, err
		}
		n++
		if c.state == chunkDone {
			return n, true, nil
		}
	}
	return n, false, nil
}

// step takes one byte that is not data.
func (c *chunks) step(x byte) error {
	switch c.state {
	case chunkSize:
		return c.size(x)
	case chunkExtension:
		switch {
		case x == '\r':
			c.state = chunkSizeLF
		case x < ' ' && x != '\t' || x == 0x7f || c.count == maxExtension:
			return errChunk
		}
		c.count++
	case chunkSizeLF:
		if x != '\n' {
			return errChunk
		}
		if c.state, c.count, c.line = chunkData, 0, 0; c.left == 0 {
			c.state = trailerLine
		}
	case chunkDataCR:
		if x != '\r' {
			return errChunk
		}
		c.state = chunkDataLF
	case chunkDataLF:
		if x != '\n' {
			return errChunk
		}
		c.state, c.count = chunkSize, 0
	case trailerLine:
		return c.trailer(x)
	case trailerLF:
		if x != '\n' {
			return errTrailer
		}
		if c.state = trailerLine; c.line == 0 {
			c.state = chunkDone
		}
		c.line = 0
	}
	return nil
}

func (c *chunks) size(x byte) error {
	switch {
	case class[x]&classHex != 0 && c.count < maxSizeDigits:
		c.left = c.left<<4 | int64(unhex(x))
		c.count++
	case c.count == 0:
		return errChunk
	case x == '\r':
		c.state = chunkSizeLF
	case x == ';':
		c.state, c.count = chunkExtension, 0
	default:
		return errChunk
	}
	return nil
}

// trailer takes a byte of a trailer line. Fields that frame or address a
// message may not come so late.
func (c *chunks) trailer(x byte) error {
	if c.count++; c.count > maxTrailerSize {
		return errTrailer
	}
	switch {
	case x == '\r':
		if c.line > 0 && !c.named() {
			return errTrailer
		}
		c.state = trailerLF
		return nil
	case x < ' ' && x != '\t' || x == 0x7f:
		return errTrailer
	case c.line < len(c.begin):
		c.begin[c.line] = x
		if x != ':' && !c.named() && class[x]&classToken == 0 {
			return errTrailer
		}
	}
	c.line++
	return nil
}

// named tells whether the line has a name that a trailer may have.
func (c *chunks) named() bool {
	b := c.begin[:min(c.line, len(c.begin))]
	i := bytes.IndexByte(b, ':')
	if i < 0 {
		return len(b) == len(c.begin) // a long name is none of those below
	}
	for _, late := range []string{"host", "content-length", "transfer-encoding", "connection", "upgrade"} {
		if fold(b[:i], late) {
			return false
		}
	}
	return i > 0
}
