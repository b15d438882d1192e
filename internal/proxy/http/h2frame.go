// SPDX-License-Identifier: Apache-2.0

package http

import (
	"encoding/binary"
	"io"
	"sync"
	"time"
)

// Frames of HTTP/2 (RFC 9113, 4.1 and 6): names as there.
const (
	frameHead = 9

	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePush         = 0x5
	framePing         = 0x6
	frameGoaway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagAck        = 0x1 // of settings and pings
	flagEnd        = 0x1 // of the stream
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTable  = 0x1
	settingPush   = 0x2
	settingWindow = 0x4
	settingFrame  = 0x5

	codeNone     = 0x0
	codeProtocol = 0x1
	codeCalm     = 0xb
)

// frame is the head of one. Its payload is unread, behind the head.
type frame struct {
	length      int
	kind, flags byte
	stream      uint32
}

func (f frame) size() int { return frameHead + f.length }

func (f frame) append(b []byte) []byte {
	b = append(b, byte(f.length>>16), byte(f.length>>8), byte(f.length), f.kind, f.flags)
	return binary.BigEndian.AppendUint32(b, f.stream)
}

func uint31(b []byte) uint32 { return binary.BigEndian.Uint32(b) &^ (1 << 31) }

// need reads until n bytes are unread.
func (s *side) need(n int) error {
	for s.w-s.r < n {
		if s.buf != nil && len(s.buf) < n {
			s.grow(n)
		}
		if err := s.read(); err != nil {
			return err
		}
	}
	return nil
}

// skip throws away n bytes.
func (s *side) skip(n int) error {
	for n > 0 {
		take := min(n, len(s.unread()))
		s.use(take)
		if n -= take; n > 0 {
			if err := s.read(); err != nil {
				return err
			}
		}
	}
	return nil
}

// frame waits for the head of a frame, and for the payload too if it is not data.
func (s *side) frame() (f frame, err error) {
	if err := s.need(frameHead); err != nil {
		if err == io.EOF && len(s.unread()) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return f, err
	}
	b := s.unread()
	f = frame{length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]), kind: b[3], flags: b[4], stream: uint31(b[5:])}
	if f.length > maxFrame {
		return f, errProtocol
	}
	if f.kind != frameData {
		err = s.need(f.size())
	}
	return f, err
}

// payload is what a frame carries without padding and priority. The frame is whole.
func (s *side) payload(f frame) ([]byte, error) {
	b := s.unread()[frameHead:f.size()]
	pad := 0
	if f.kind != frameContinuation && f.flags&flagPadded != 0 {
		if len(b) == 0 {
			return nil, errProtocol
		}
		pad, b = int(b[0]), b[1:]
	}
	if f.kind == frameHeaders && f.flags&flagPriority != 0 {
		if len(b) < 5 {
			return nil, errProtocol
		}
		b = b[5:]
	}
	if pad > len(b) {
		return nil, errProtocol
	}
	return b[:len(b)-pad], nil
}

// frameWriter gathers frames to a side. It is safe for use by many.
type frameWriter struct {
	mu     sync.Mutex
	to     *side
	limit  time.Duration
	pooled *[bufferSize]byte
	buf    []byte
}

// add puts whole frames behind those that wait.
func (w *frameWriter) add(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.put(b)
}

func (w *frameWriter) put(b []byte) error {
	if len(w.buf)+len(b) > bufferSize {
		if err := w.send(); err != nil {
			return err
		}
	}
	if len(b) > bufferSize {
		return w.to.write(b, time.Now(), w.limit)
	}
	if w.pooled == nil {
		w.pooled = buffers.Get().(*[bufferSize]byte)
		w.buf = w.pooled[:0]
	}
	w.buf = append(w.buf, b...)
	return nil
}

func (w *frameWriter) send() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.to.write(w.buf, time.Now(), w.limit)
	buffers.Put(w.pooled)
	w.pooled, w.buf = nil, nil
	return err
}

// flush sends what waits.
func (w *frameWriter) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.send()
}

// pass moves a frame from a side as it is. Data may not have come whole yet.
func (w *frameWriter) pass(from *side, f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for left := f.size(); ; {
		n := min(left, len(from.unread()))
		if err := w.put(from.unread()[:n]); err != nil {
			return err
		}
		from.use(n)
		if left -= n; left == 0 {
			return nil
		}
		if err := w.send(); err != nil {
			return err
		}
		if err := from.read(); err != nil {
			return err
		}
	}
}

// settings moves a frame of settings, each as change wants it; false drops it.
// first: it also says that nothing may be pushed.
func (w *frameWriter) settings(from *side, f frame, first bool, change func(id uint16, value uint32) (uint32, bool)) error {
	if f.flags&flagAck != 0 {
		return w.pass(from, f)
	}
	b := from.unread()[frameHead:f.size()]
	if len(b)%6 != 0 || f.stream != 0 {
		return errProtocol
	}
	out := make([]byte, frameHead, f.size()+6)
	for ; len(b) > 0; b = b[6:] {
		id, value := binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])
		if value, ok := change(id, value); ok {
			out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(out, id), value)
		}
	}
	if first {
		out = append(out, 0, settingPush, 0, 0, 0, 0)
	}
	frame{length: len(out) - frameHead, kind: frameSettings}.append(out[:0])
	from.use(f.size())
	return w.add(out)
}

func (w *frameWriter) window(stream uint32, n int) error {
	b := frame{length: 4, kind: frameWindow, stream: stream}.append(make([]byte, 0, frameHead+4))
	return w.add(binary.BigEndian.AppendUint32(b, uint32(n)))
}

func (w *frameWriter) reset(stream uint32, code uint32) error {
	b := frame{length: 4, kind: frameReset, stream: stream}.append(make([]byte, 0, frameHead+4))
	return w.add(binary.BigEndian.AppendUint32(b, code))
}

func (w *frameWriter) goaway(last uint32, code uint32) error {
	b := frame{length: 8, kind: frameGoaway}.append(make([]byte, 0, frameHead+8))
	return w.add(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, last), code))
}

// block sends a header block as one frame and those that continue it, which
// nothing may come between.
func (w *frameWriter) block(stream uint32, block []byte, end bool) error {
	f := frame{kind: frameHeaders, stream: stream}
	if end {
		f.flags = flagEnd
	}
	out := make([]byte, 0, len(block)+frameHead*(1+len(block)/maxFrame))
	for {
		f.length = min(len(block), maxFrame)
		if f.length == len(block) {
			f.flags |= flagEndHeaders
		}
		out = append(f.append(out), block[:f.length]...)
		if block = block[f.length:]; len(block) == 0 {
			return w.add(out)
		}
		f.kind, f.flags = frameContinuation, 0
	}
}
