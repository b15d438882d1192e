// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// batchRows is how many rows one system call reads; a hash bucket must fit.
const batchRows = 4096

// each calls f for every row of a table. Rows that come or go meanwhile may be
// missed; none is seen half written in its key.
func each[K, V any](m *ebpf.Map, f func(K, V)) error {
	if m == nil {
		return nil
	}
	switch m.Type() {
	case ebpf.LPMTrie:
		return eachSlowly(m, f)
	}
	keys, values := make([]K, batchRows), make([]V, batchRows)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			f(keys[i], values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if errors.Is(err, ebpf.ErrNotSupported) {
			return eachSlowly(m, f)
		}
		if err != nil {
			return fmt.Errorf("read map %s: %w", name(m), err)
		}
	}
}

func eachSlowly[K, V any](m *ebpf.Map, f func(K, V)) error {
	var k K
	var v V
	it := m.Iterate()
	for it.Next(&k, &v) {
		f(k, v)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read map %s: %w", name(m), err)
	}
	return nil
}

func name(m *ebpf.Map) string {
	info, err := m.Info()
	if err != nil {
		return m.String()
	}
	return info.Name
}
