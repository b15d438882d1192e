// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/datapath/link"
	"github.com/stentor-net/stentor/internal/datapath/load"
	"github.com/stentor-net/stentor/internal/datapath/maps"
)

// LocalNode is this node's index in the table of nodes.
const LocalNode = 1

// Datapath of a node. Its methods may be called concurrently.
type Datapath struct {
	log    *slog.Logger
	tables *maps.Set
	events counters

	// mu is held for reading by whoever uses links or programs, for writing by
	// whoever replaces them.
	mu       sync.RWMutex
	cfg      Config
	links    *link.Node
	programs *load.Programs
	nodes    []NodeRow             // of the last SetNodes
	foreign  map[load.Foreign]bool // programs of others that the log has told of

	sweptMu sync.Mutex
	swept   SweepStats
}

// Start brings the datapath of the node up, or takes over the one that runs:
// tables and devices are opened or made, programs loaded and attached in the
// place of their predecessors. Traffic is not interrupted. It works on the
// network namespace of the calling thread.
func Start(ctx context.Context, log *slog.Logger, cfg Config) (*Datapath, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start datapath: %w", err)
	}
	d := &Datapath{log: log}
	if err := d.start(ctx, cfg); err != nil {
		if errors.Is(err, unix.EPERM) && !strings.Contains(err.Error(), load.Rights) {
			err = fmt.Errorf("%w: %s", err, load.Rights)
		}
		return nil, errors.Join(fmt.Errorf("start datapath: %w", err), d.Close())
	}
	return d, nil
}

func (d *Datapath) start(ctx context.Context, cfg Config) error {
	specs, err := load.Parse()
	if err != nil {
		return err
	}
	// Tables first: a layout that does not fit must be said before anything changes.
	if d.tables, err = maps.Open(cfg.BPFDir, specs.Maps()); err != nil {
		return err
	}
	if cfg.MaglevSize > 0 {
		d.tables.SetMaglev(cfg.MaglevSize, cfg.Services.MaglevSeed)
	}
	if err := d.apply(ctx, cfg); err != nil {
		return err
	}
	devices := d.links.Devices()
	d.log.Info("datapath started", "uplinks", names(devices.Uplinks), "mtu", devices.MTU, "tunnel", cfg.Tunnel, "kernel", load.Release())
	return nil
}

// UpdateConfig carries out a changed configuration without interrupting traffic:
// devices are adapted, programs loaded again and replaced. BPFDir cannot change.
func (d *Datapath) UpdateConfig(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("update datapath: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if cfg.BPFDir != d.cfg.BPFDir {
		return fmt.Errorf("update datapath: its tables are in %s and stay there", d.cfg.BPFDir)
	}
	if err := d.apply(ctx, cfg); err != nil {
		return fmt.Errorf("update datapath: %w", err)
	}
	return d.setRemotes()
}

// apply makes devices and programs those of the configuration. On an error what
// was there before goes on working.
func (d *Datapath) apply(ctx context.Context, cfg Config) error {
	links, err := link.New(cfg.linkOptions())
	if err != nil {
		return err
	}
	programs, err := d.load(ctx, cfg, links)
	if err != nil {
		links.Close()
		return err
	}
	if d.links != nil {
		d.links.Close()
	}
	if d.programs != nil {
		d.programs.Close()
	}
	d.cfg, d.links, d.programs = cfg, links, programs
	d.adopt()
	return nil
}

// load makes the devices and puts new programs on those that are the node's own.
func (d *Datapath) load(ctx context.Context, cfg Config, links *link.Node) (*load.Programs, error) {
	devices, err := links.Ensure()
	if err != nil {
		return nil, err
	}
	_, hz, err := d.tables.Jiffies()
	if err != nil {
		return nil, err
	}
	if cfg.Services.HostNetNS, err = link.NetNSCookie(); err != nil {
		return nil, err
	}
	specs, err := load.Parse()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	programs, err := load.Load(specs, d.tables.Maps(), cfg.loadOptions(devices, hz))
	if err != nil {
		return nil, err
	}
	if err := programs.AttachNode(); err != nil {
		programs.Close()
		return nil, err
	}
	return programs, nil
}

// adopt replaces the programs of the pods that run.
func (d *Datapath) adopt() {
	pods, err := d.links.Pods()
	if err != nil {
		d.log.Warn("endpoints not adopted", "error", err) // Repair does it
		return
	}
	for _, e := range d.tables.Endpoints() {
		if !pods[e.IfIndex] {
			// The pod has gone while no agent ran; its DEL removes the row.
			d.log.Warn("endpoint without interface", "endpoint", e.ID)
			continue
		}
		if err := d.programs.AttachEndpoint(e.IfIndex); err != nil {
			d.log.Warn("endpoint not adopted", "endpoint", e.ID, "error", err)
		}
	}
}

// MTU of pod interfaces, bytes.
func (d *Datapath) MTU() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.links.Devices().MTU
}

// Close lets go of the datapath; everything in the kernel goes on running.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.programs != nil {
		d.programs.Close()
	}
	if d.links != nil {
		d.links.Close()
	}
	if d.tables != nil {
		return d.tables.Close()
	}
	return nil
}

// same tells whether the node's devices are still those that the programs were loaded for.
func (d *Datapath) same(devices link.Devices) bool {
	return reflect.DeepEqual(devices, d.programs.Devices())
}

// Cleanup removes everything of ours from the node: filters, links, devices,
// routes, tables. Pods lose their network. Only BPFDir of the config is used.
func Cleanup(_ context.Context, cfg Config) error {
	dir := cfg.BPFDir
	if dir == "" {
		dir = defaultDir
	}
	errs := []error{load.Detach(), link.Cleanup()}
	if checkFileSystem(dir) == nil { // else nothing can be pinned there, and removing files is not ours
		for _, sub := range []string{"links", "programs", ""} {
			errs = append(errs, removePins(filepath.Join(dir, sub)))
		}
	}
	return errors.Join(errs...)
}

// removePins removes a directory of pins with its files; absent is fine.
func removePins(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range list {
		if !e.IsDir() {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

func names(list []link.Device) (out []string) {
	for _, d := range list {
		out = append(out, d.Name)
	}
	return out
}
