// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// memory is the rows of an array map in our address space. Stores are single
// and aligned: the programs see the old value or the new one. The mapping is
// shared with the kernel; a reader on another CPU of a weakly ordered machine
// may see two stores in another order, which is why generations are bumped a
// second time after a grace period.
type memory struct {
	b      []byte
	stride int
}

func (m *memory) open(em *ebpf.Map) error {
	return m.openAs(em, unix.PROT_READ|unix.PROT_WRITE)
}

func (m *memory) openAs(em *ebpf.Map, protection int) error {
	if em == nil {
		return nil
	}
	step := stride(em.ValueSize())
	size := step * int(em.MaxEntries())
	page := unix.Getpagesize()
	b, err := unix.Mmap(em.FD(), 0, (size+page-1)&^(page-1), protection, unix.MAP_SHARED)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("mmap: %w (the map lacks BPF_F_MMAPABLE)", err)
	}
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	m.b, m.stride = b, step
	return nil
}

func (m *memory) close() error {
	if m.b == nil {
		return nil
	}
	b := m.b
	m.b = nil
	return unix.Munmap(b)
}

// rows is how many there may be.
func (m *memory) rows() int {
	if m.stride == 0 {
		return 0
	}
	return len(m.b) / m.stride
}

// word is the u32 at a byte offset of a row.
func (m *memory) word(row uint32, offset uintptr) *uint32 {
	at := int(row)*m.stride + int(offset)
	return (*uint32)(unsafe.Pointer(&m.b[at : at+4][0]))
}

func (m *memory) store32(row uint32, offset uintptr, v uint32) {
	atomic.StoreUint32(m.word(row, offset), v)
}

func (m *memory) load32(row uint32, offset uintptr) uint32 {
	return atomic.LoadUint32(m.word(row, offset))
}

func (m *memory) store64(row uint32, v uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&m.b[int(row)*m.stride : int(row)*m.stride+8][0])), v)
}

func (m *memory) load64(row uint32) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&m.b[int(row)*m.stride : int(row)*m.stride+8][0])))
}

// store16 changes half of a word by a compare-and-swap of the whole: Go has no
// 16-bit atomics, and the neighbour cell must not be torn either.
func (m *memory) store16(row uint32, offset uintptr, v uint16) {
	word := m.word(row, offset&^3)
	shift := halfShift(offset)
	for {
		old := atomic.LoadUint32(word)
		if atomic.CompareAndSwapUint32(word, old, old&^(0xffff<<shift)|uint32(v)<<shift) {
			return
		}
	}
}

func (m *memory) load16(row uint32, offset uintptr) uint16 {
	return uint16(m.load32(row, offset&^3) >> halfShift(offset))
}

// halfShift finds the u16 at an offset within its aligned word.
func halfShift(offset uintptr) uint {
	if littleEndian {
		return uint(offset&2) * 8
	}
	return uint(2-offset&2) * 8
}

var littleEndian = func() bool { x := uint16(1); return *(*byte)(unsafe.Pointer(&x)) == 1 }()
