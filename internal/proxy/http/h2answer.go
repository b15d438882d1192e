// SPDX-License-Identifier: Apache-2.0

package http

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/stentor-net/stentor/internal/l7"
)

// fromServer passes frames on to the client until the server ends.
func (h *h2) fromServer() error {
	defer h.server.drop()
	var block []byte
	for {
		if len(h.server.unread()) < frameHead {
			if err := h.toClient.flush(); err != nil {
				return err
			}
		}
		f, err := h.server.frame()
		if err == nil {
			block, err = h.serverFrame(f, block[:0])
		}
		if err != nil {
			if errors.Is(err, errProtocol) {
				h.toClient.goaway(0, codeProtocol)
			}
			h.toClient.flush()
			return err
		}
	}
}

func (h *h2) serverFrame(f frame, block []byte) ([]byte, error) {
	switch f.kind {
	case frameHeaders:
		return h.serverHeaders(f, block)
	case frameData:
		if err := h.toClient.pass(&h.server, f); err != nil {
			return block, err
		}
		if f.flags&flagEnd != 0 {
			h.end(f.stream, func(st *stream) { st.served = true })
		}
		return block, nil
	case frameSettings:
		err := h.toClient.settings(&h.server, f, false, func(id uint16, value uint32) (uint32, bool) {
			switch id {
			case settingTable:
				h.tableLimit.Store(int64(value))
				value = min(value, maxTable)
				h.inbound.Store(max(h.inbound.Load(), int64(value)))
			case settingPush, settingFrame:
				return 0, false
			}
			return value, true
		})
		h.settle()
		return block, err
	case frameReset:
		h.end(f.stream, func(st *stream) { st.asked, st.served = true, true })
		return block, h.toClient.pass(&h.server, f)
	case framePing, frameGoaway, frameWindow:
		return block, h.toClient.pass(&h.server, f)
	case frameContinuation, framePush:
		return block, errProtocol
	}
	h.server.use(f.size())
	return block, nil
}

// serverHeaders passes an answer's header block on as it is, and reads it for
// the record: compression has a memory, so none may be left out.
func (h *h2) serverHeaders(f frame, block []byte) ([]byte, error) {
	block, err := h.server.readBlock(f, block, h.limits.Head)
	if err != nil {
		return block, err
	}
	h.status = 0
	h.answers.SetAllowedMaxDynamicTableSize(uint32(h.outbound.Load()))
	h.answers.SetMaxStringLength(h.limits.Head)
	h.answers.SetEmitFunc(func(f hpack.HeaderField) {
		if f.Name == ":status" {
			h.status, _ = strconv.Atoi(f.Value)
		}
	})
	if _, err := h.answers.Write(block); err != nil || h.answers.Close() != nil {
		return block, errProtocol
	}
	end := f.flags&flagEnd != 0
	note := func(st *stream) {
		st.served = st.served || end
		if st.answered || h.status < 200 {
			return
		}
		st.answered = true
		st.http.Code, st.record.Verdict = h.status, l7.Forwarded
		st.record.Latency = time.Since(st.record.Time)
		if h.srv.Recorder != nil {
			h.srv.Recorder.Record(&st.record)
		}
	}
	h.end(f.stream, note)
	return block, h.toClient.block(f.stream, block, end)
}
