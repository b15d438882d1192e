// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/bpf"
)

// StoredSockets calls f for the row of each socket, of all network namespaces,
// that has a value in the storage map. Nothing of it stays in the kernel.
func StoredSockets(storage *ebpf.Map, f func(abi.StoredRow)) error {
	spec, err := bpf.LoadSockets()
	if err != nil {
		return err
	}
	var programs struct {
		Iterate *ebpf.Program `ebpf:"stored_sockets"`
	}
	if err := spec.LoadAndAssign(&programs, nil); err != nil {
		return fmt.Errorf("load stored_sockets: %w", explain(err))
	}
	defer programs.Iterate.Close()
	iter, err := link.AttachIter(link.IterOptions{Program: programs.Iterate, Map: storage})
	if err != nil {
		return fmt.Errorf("attach stored_sockets: %w", explain(err))
	}
	defer iter.Close()
	rows, err := iter.Open()
	if err != nil {
		return fmt.Errorf("run stored_sockets: %w", err)
	}
	defer rows.Close()
	text, err := io.ReadAll(rows)
	if err != nil {
		return fmt.Errorf("run stored_sockets: %w", err)
	}
	for r := bytes.NewReader(text); ; {
		var row abi.StoredRow
		if err := binary.Read(r, binary.NativeEndian, &row); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read a row of stored_sockets: %w", err)
		}
		f(row)
	}
}
