// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/stentor-net/stentor/internal/bench"
	"github.com/stentor-net/stentor/internal/datapath"
	"github.com/stentor-net/stentor/internal/service"
)

const mebibyte = 1 << 20

// flowRows is the size of the flow table that the bar of memory is for.
const flowRows = 131072

// measureSizes reads what a node's maps take, and how large the programs are
// that are installed.
func measureSizes(ctx context.Context, e *Env) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	dir, _, err := w.cgroup(ctx)
	if err != nil {
		return err
	}
	c, err := w.stentor(ctx, 53, true, func(cfg *datapath.Config) { cfg.SocketLB, cfg.CgroupRoot = true, dir })
	if err != nil {
		return err
	}
	maps, err := c.nodes[0].memory()
	if err != nil {
		return err
	}
	sum, flows := 0.0, uint32(0)
	slices.SortFunc(maps, func(a, b mapMemory) int { return b.bytes - a.bytes })
	var large []bench.Row
	for _, m := range maps {
		sum += float64(m.bytes)
		if m.name == "flows" {
			flows = m.rows
		}
		if m.bytes >= mebibyte/2 {
			large = append(large, bench.Single("map "+m.name, "MiB", float64(m.bytes)/mebibyte).By("%d rows", m.rows))
		}
	}
	if flows < flowRows {
		return fmt.Errorf("the flow table has %d rows, and the bar is for %d", flows, flowRows)
	}
	e.Add(bench.Single("all maps of a node", "MiB", sum/mebibyte).Below(40).By("memlock of %d maps, %d rows of flows, no service yet", len(maps), flows))
	e.Add(large...)
	if err := addGrown(e, c.nodes[0]); err != nil {
		return err
	}
	for _, name := range []string{"stentor", "stentor-cni"} {
		st, err := os.Stat(filepath.Join(e.Bin, name))
		if err != nil {
			return fmt.Errorf("%w (make build)", err)
		}
		e.Add(bench.Single("binary "+name, "MiB", float64(st.Size())/mebibyte))
	}
	return nil
}

// addGrown reads the maps again with services: some of their tables come, or grow, with need.
func addGrown(e *Env, n *stentorNode) error {
	list := frontends(netip.MustParseAddrPort("10.96.0.10:80"), 80)
	list[0].Affinity, list[1].Algorithm = 60, service.Maglev
	if err := n.dp.SetFrontends(list); err != nil {
		return err
	}
	maps, err := n.memory()
	if err != nil {
		return err
	}
	sum := 0.0
	for _, m := range maps {
		sum += float64(m.bytes)
	}
	e.Add(bench.Single("the same with services", "MiB", sum/mebibyte).By("%d of them, one with affinity and one with Maglev", len(list)))
	return nil
}

type mapMemory struct {
	name  string
	rows  uint32
	bytes int
}

// memory lists every map of the node.
func (n *stentorNode) memory() ([]mapMemory, error) { return memoryOfPins(n.cfg.BPFDir) }

// memoryOfPins lists the maps pinned in a folder, and those that only the programs
// pinned below it hold.
func memoryOfPins(dir string) ([]mapMemory, error) {
	seen := map[ebpf.MapID]mapMemory{}
	add := func(m *ebpf.Map) error {
		defer m.Close()
		info, err := m.Info()
		if err != nil {
			return err
		}
		id, ok := info.ID()
		if !ok {
			return fmt.Errorf("the kernel does not number map %s", info.Name)
		}
		bytes, _ := info.Memlock() // a trie without rows has none
		seen[id] = mapMemory{info.Name, info.MaxEntries, int(bytes)}
		return nil
	}
	pins, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, pin := range pins {
		if pin.IsDir() {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, pin.Name()), nil)
		if err != nil {
			return nil, err
		}
		if err := add(m); err != nil {
			return nil, err
		}
	}
	programs, err := os.ReadDir(filepath.Join(dir, "programs"))
	if err != nil {
		return nil, err
	}
	for _, pin := range programs {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, "programs", pin.Name()), nil)
		if err != nil {
			return nil, err
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return nil, err
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			if _, done := seen[id]; done {
				continue
			}
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return nil, err
			}
			if err := add(m); err != nil {
				return nil, err
			}
		}
	}
	var out []mapMemory
	for _, m := range seen {
		m.name = strings.TrimPrefix(m.name, ".")
		out = append(out, m)
	}
	return out, nil
}
