// SPDX-License-Identifier: Apache-2.0

package http

import (
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/stentor-net/stentor/internal/l7"
)

// HTTP/2 passes frame by frame: a client's connection has one of its own to the
// server, so streams keep their numbers, and settings, pings, windows and
// goaways go from end to end. Only the header blocks of requests are read and
// written anew, because those that are denied never reach the server.

// preface begins a connection of HTTP/2 with prior knowledge (RFC 9113, 3.4).
// Its first part looks like a head.
const (
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	prefaceHead = 18
)

// Bounds of a connection of HTTP/2.
const (
	maxFrame   = 16384 // bytes of payload; larger ones are never negotiated
	maxTable   = 64 << 10
	maxStreams = 4096    // that are not finished
	maxPieces  = 64      // frames of one header block
	mostWasted = 4 << 20 // bytes for a denied stream, before the client is told to stop; some take that for an error
	ownWindow  = 4096    // bytes of the client's window that we keep for our answers
)

func (h *h2) settle() { h.once.Do(func() { close(h.settled) }) }

// forgetDenied is how long data may still come for a stream that was denied.
const forgetDenied = time.Minute

// h2 is a connection of HTTP/2. One goroutine reads from the client, one from the server.
type h2 struct {
	*conn
	toClient, toServer frameWriter

	// Of the goroutine that reads from the client.
	requests  *hpack.Decoder
	encoder   *hpack.Encoder
	encoded   []byte
	block     h2Block
	opened    uint32 // the highest stream that the client opened
	edits     []l7.Edit
	keep      int // bytes of the client's window that are ours and unused
	spent     int // and used
	announced bool

	// Of the goroutine that reads from the server.
	answers *hpack.Decoder
	status  int
	settled chan struct{} // closed once the server's settings are on their way
	once    sync.Once

	tableLimit atomic.Int64 // of the server's decoder; -1: as it was
	window     atomic.Int64 // the client's initial window for a stream
	inbound    atomic.Int64 // what the client's encoder may use
	outbound   atomic.Int64 // what the server's encoder may use

	mu      sync.Mutex
	streams map[uint32]*stream
	sweepAt int // how many streams
}

// stream is a request that is not finished.
type stream struct {
	record        l7.Record
	http          l7.HTTP
	denied        bool  // answered by us: the server knows nothing of it
	wasted        int64 // bytes that came nevertheless
	answered      bool
	asked, served bool // the client's and the server's end was seen
}

// errProtocol ends a connection of HTTP/2 that cannot go on.
var errProtocol = errors.New("a frame that HTTP/2 does not allow")

func (c *conn) serveHTTP2() error {
	if err := c.client.need(len(preface)); err != nil || string(c.client.unread()[:len(preface)]) != preface {
		c.busy().req = head{minor: 1}
		c.refuse(errVersion)
		return nil
	}
	c.client.use(len(preface))
	if err := c.judge(); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		w := c.busy()
		w.http = l7.HTTP{Protocol: "HTTP/2", Scheme: "http"}
		w.record = l7.Record{Time: c.now, Connection: c.id, Ruling: c.ruling, HTTP: &w.http}
		c.reject(w, errUnreachable.reason, 0)
		return nil
	}
	c.rest()
	h := &h2{conn: c, streams: map[uint32]*stream{}, settled: make(chan struct{})}
	h.toClient.to, h.toServer.to = &c.client, &c.server
	h.toClient.limit, h.toServer.limit = c.limits.Write, c.limits.Write
	h.requests = hpack.NewDecoder(4096, nil)
	h.answers = hpack.NewDecoder(4096, nil)
	h.encoder = hpack.NewEncoder((*appender)(&h.encoded))
	h.tableLimit.Store(-1)
	h.window.Store(65535)
	h.inbound.Store(4096)
	h.outbound.Store(4096)
	c.client.until(time.Time{})
	c.server.until(time.Time{})
	h.toServer.add([]byte(preface))
	c.srv.register(h)
	defer c.srv.forget(h)
	var both sync.WaitGroup
	both.Go(func() {
		h.fromServer()
		c.abort()
		h.settle()
	})
	if h.fromClient() == io.EOF {
		c.server.closeWrite() // what it still answers, the client may want
	} else {
		c.abort()
	}
	both.Wait()
	h.unanswered()
	return nil
}

func (s *Server) register(h *h2) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.framed == nil {
		s.framed = map[*h2]struct{}{}
	}
	s.framed[h] = struct{}{}
	if s.draining.Load() {
		go h.drain()
	}
}

func (s *Server) forget(h *h2) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.framed, h)
}

// drain tells the client to open no more streams; those that it has opened
// meanwhile are served (RFC 9113, 6.8).
func (h *h2) drain() {
	<-h.settled
	h.toClient.goaway(1<<31-1, codeNone)
	h.toClient.flush()
}

type appender []byte

func (a *appender) Write(b []byte) (int, error) {
	*a = append(*a, b...)
	return len(b), nil
}

// fromClient passes frames on to the server until the client ends.
func (h *h2) fromClient() error {
	defer h.client.drop()
	for {
		if len(h.client.unread()) < frameHead { // nothing more to do now
			if err := errors.Join(h.toServer.flush(), h.toClient.flush()); err != nil {
				return err
			}
		}
		f, err := h.client.frame()
		if err == nil {
			err = h.clientFrame(f)
		}
		if err != nil {
			if errors.Is(err, errProtocol) {
				h.toClient.goaway(h.opened, codeProtocol)
			}
			h.toClient.flush()
			h.toServer.flush()
			return err
		}
	}
}

func (h *h2) clientFrame(f frame) error {
	switch f.kind {
	case frameHeaders:
		return h.headers(f)
	case frameData:
		return h.clientData(f)
	case frameSettings:
		return h.clientSettings(f)
	case frameWindow:
		return h.clientWindow(f)
	case frameReset:
		st, known := h.end(f.stream, func(st *stream) { st.asked, st.served = true, true })
		if known && st.denied {
			h.client.use(f.size())
			return nil
		}
		if f.stream == 0 || f.stream > h.opened {
			return errProtocol
		}
		return h.toServer.pass(&h.client, f)
	case framePing, frameGoaway:
		return h.toServer.pass(&h.client, f)
	case frameContinuation, framePush:
		return errProtocol
	}
	h.client.use(f.size()) // priorities, and extensions, which are between neighbours
	return nil
}

// clientData passes data on, or throws it away if the stream was denied: then
// the client gets the connection's window back from us, because the server will
// not give it. A client that goes on and on is told to stop.
func (h *h2) clientData(f frame) error {
	if f.stream == 0 || f.stream > h.opened {
		return errProtocol
	}
	st := h.find(f.stream)
	if st != nil && st.denied {
		h.client.use(frameHead)
		if err := h.client.skip(f.length); err != nil {
			return err
		}
		if f.length > 0 {
			h.toClient.window(0, f.length)
		}
		before := st.wasted
		if st.wasted += int64(f.length); before <= mostWasted && st.wasted > mostWasted {
			h.toClient.reset(f.stream, codeNone)
		}
	} else if err := h.toServer.pass(&h.client, f); err != nil {
		return err
	}
	if f.flags&flagEnd != 0 {
		h.end(f.stream, func(st *stream) { st.asked = true })
	}
	return nil
}

// clientWindow passes a window on, without what we keep of the connection's.
func (h *h2) clientWindow(f frame) error {
	if f.length != 4 {
		return errProtocol
	}
	if f.stream != 0 {
		if st := h.find(f.stream); st != nil && st.denied || f.stream > h.opened {
			h.client.use(f.size())
			return nil
		}
		return h.toServer.pass(&h.client, f)
	}
	n := int(uint31(h.client.unread()[frameHead:]))
	h.client.use(f.size())
	if n == 0 {
		return errProtocol
	}
	back := min(h.spent, n) // of bytes that were ours
	h.spent -= back
	h.keep += back
	n -= back
	if h.keep+h.spent == 0 && n > 2*ownWindow {
		h.keep = ownWindow
		n -= ownWindow
	}
	if n > 0 {
		h.toServer.window(0, n)
	}
	return nil
}

// clientSettings passes settings on: nothing may be pushed that was not asked
// for, and frames stay small.
func (h *h2) clientSettings(f frame) error {
	err := h.toServer.settings(&h.client, f, !h.announced, func(id uint16, value uint32) (uint32, bool) {
		switch id {
		case settingTable:
			value = min(value, maxTable)
			h.outbound.Store(max(h.outbound.Load(), int64(value)))
		case settingWindow:
			h.window.Store(int64(value))
		case settingPush, settingFrame:
			return 0, false
		}
		return value, true
	})
	h.announced = true
	return err
}

// start takes a stream in, unless there are too many.
func (h *h2) start(id uint32, st *stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.streams) >= h.sweepAt {
		// A client that was told to stop may do so without a word.
		maps.DeleteFunc(h.streams, func(_ uint32, old *stream) bool {
			return old.denied && h.now.Sub(old.record.Time) > forgetDenied
		})
		h.sweepAt = max(128, 2*len(h.streams))
	}
	h.streams[id] = st
	return len(h.streams) <= maxStreams
}

// find gives an unfinished stream, or nil.
func (h *h2) find(id uint32) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams[id]
}

// end notes that a side of a stream has ended, and forgets it when both have.
func (h *h2) end(id uint32, note func(*stream)) (st *stream, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if st, known = h.streams[id]; known {
		if note(st); st.asked && st.served {
			delete(h.streams, id)
			if !st.answered {
				h.unansweredStream(st)
			}
		}
	}
	return st, known
}

// unanswered records what the connection's end left without an answer.
func (h *h2) unanswered() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(h.streams)) {
		if st := h.streams[id]; !st.answered {
			h.unansweredStream(st)
		}
	}
}

func (h *h2) unansweredStream(st *stream) {
	st.answered = true
	st.record.Verdict, st.record.Reason = l7.Rejected, "the stream ended without an answer"
	if h.srv.Recorder != nil {
		h.srv.Recorder.Record(&st.record)
	}
}
