// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// stateHead begins a state; the number is the version of what follows. Then come
// the SHA-256 of the rest and the rest: for each name of an endpoint the
// endpoint, the name, the number of its addresses, and of each the address, when
// it was learned and when it expires. Numbers are varints, texts and addresses
// have their length before them, times are Unix nanoseconds.
const stateHead = "stentor names 1\n"

var (
	errState   = errors.New("it does not begin as a state of this version")
	errDamaged = errors.New("it is damaged")
)

// AppendState appends all entries in a form for a file.
func (c *Cache) AppendState(dst []byte) []byte {
	var sum [sha256.Size]byte
	dst = append(dst, stateHead...)
	at := len(dst)
	dst = append(dst, sum[:]...)
	all := c.Entries()
	for i := 0; i < len(all); {
		n := 1
		for i+n < len(all) && all[i+n].Endpoint == all[i].Endpoint && all[i+n].Name == all[i].Name {
			n++
		}
		dst = binary.AppendUvarint(dst, uint64(all[i].Endpoint))
		dst = appendBytes(dst, all[i].Name)
		dst = binary.AppendUvarint(dst, uint64(n))
		for _, e := range all[i : i+n] {
			dst = appendBytes(dst, e.Addr.AsSlice())
			dst = binary.AppendVarint(dst, e.Learned.UnixNano())
			dst = binary.AppendVarint(dst, e.Expires.UnixNano())
		}
		i += n
	}
	sum = sha256.Sum256(dst[at+len(sum):])
	copy(dst[at:], sum[:])
	return dst
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// Restore takes in a state. Its limits are those of this cache; what is over by
// now comes back as zombies. A state that is damaged changes nothing.
func (c *Cache) Restore(state []byte, now time.Time) error {
	const head = len(stateHead) + sha256.Size
	if len(state) < head || string(state[:len(stateHead)]) != stateHead {
		return fmt.Errorf("restore learned names: %w", errState)
	}
	if sum := sha256.Sum256(state[head:]); string(sum[:]) != string(state[len(stateHead):head]) {
		return fmt.Errorf("restore learned names: %w", errDamaged)
	}
	entries, err := readState(reader{rest: state[head:]})
	if err != nil {
		return fmt.Errorf("restore learned names: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		c.learn(nil, e.Endpoint, e.Name, e.Addr, e.Learned.UnixNano(), e.Expires.UnixNano())
	}
	for id, ep := range c.endpoints {
		for e := ep.live.first(); e != nil && e.expires <= now.UnixNano(); e = ep.live.first() {
			ep.retire(e, now.UnixNano())
		}
		c.bound(nil, id, ep)
	}
	return nil
}

func readState(r reader) (entries []Entry, err error) {
	for len(r.rest) > 0 {
		id := r.number()
		text := string(r.bytes())
		name, bad := Canonical(text)
		if id > 0xffff || bad != nil || name != text {
			return nil, errDamaged
		}
		for n := r.number(); n > 0 && !r.bad; n-- {
			a, ok := netip.AddrFromSlice(r.bytes())
			if !ok {
				return nil, errDamaged
			}
			entries = append(entries, Entry{
				Endpoint: uint16(id), Name: name, Addr: a.Unmap(), Learned: r.time(), Expires: r.time(),
			})
		}
		if r.bad {
			return nil, errDamaged
		}
	}
	return entries, nil
}

// reader takes a state apart. Once it is bad, it gives nothing.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	return take(r, v, n)
}

func (r *reader) time() time.Time {
	v, n := binary.Varint(r.rest)
	return time.Unix(0, take(r, v, n))
}

func take[T any](r *reader, v T, n int) T {
	if n <= 0 {
		*r = reader{bad: true}
		var none T
		return none
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		*r = reader{bad: true}
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}
