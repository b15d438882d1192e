// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Answering reads requests from in, one of JSON per line, tries each at once, and
// writes the answers as they come. It ends with in.
func Answering(ctx context.Context, hello Hello, in io.Reader, out io.Writer) error {
	var mu sync.Mutex
	write := json.NewEncoder(out)
	if err := write.Encode(hello); err != nil {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for read := json.NewDecoder(in); ; {
		var r Request
		if err := read.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		all.Go(func() {
			a := Try(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			_ = write.Encode(a) // whoever asked is gone
		})
	}
}

// Session asks the prober at the other end of a connection. Requests may run at
// the same time.
//
// mu guards last, waiting and err; writing has a lock of its own.
type Session struct {
	Hello Hello

	conn  io.ReadWriteCloser
	write sync.Mutex

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan Answer
	err     error
}

// NewSession waits for the prober's first line.
func NewSession(conn io.ReadWriteCloser) (*Session, error) {
	s := &Session{conn: conn, waiting: map[uint64]chan Answer{}}
	r := bufio.NewReader(conn)
	line, err := r.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &s.Hello)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start the prober: %w", err)
	}
	go s.read(r)
	return s, nil
}

func (s *Session) read(r io.Reader) {
	for dec := json.NewDecoder(r); ; {
		var a Answer
		err := dec.Decode(&a)
		s.mu.Lock()
		if err != nil {
			s.err = fmt.Errorf("the prober is gone: %w", err)
			for id, to := range s.waiting {
				close(to)
				delete(s.waiting, id)
			}
			s.mu.Unlock()
			return
		}
		if to, ok := s.waiting[a.ID]; ok {
			to <- a
			delete(s.waiting, a.ID)
		}
		s.mu.Unlock()
	}
}

// Ask tries one request.
func (s *Session) Ask(ctx context.Context, r Request) (Answer, error) {
	to := make(chan Answer, 1)
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return Answer{}, s.err
	}
	s.last++
	r.ID = s.last
	s.waiting[r.ID] = to
	s.mu.Unlock()
	s.write.Lock()
	err := json.NewEncoder(s.conn).Encode(r)
	s.write.Unlock()
	if err != nil {
		return Answer{}, fmt.Errorf("ask the prober: %w", err)
	}
	select {
	case a, ok := <-to:
		if !ok {
			s.mu.Lock()
			defer s.mu.Unlock()
			return Answer{}, s.err
		}
		return a, nil
	case <-ctx.Done():
		return Answer{}, context.Cause(ctx)
	}
}

// Close ends the prober.
func (s *Session) Close() error { return s.conn.Close() }
