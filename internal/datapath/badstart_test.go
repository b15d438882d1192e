// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/stentor-net/stentor/internal/abi"
	"github.com/stentor-net/stentor/internal/datapath/nstest"
)

// startIn tells a child process to be nothing but a start in that directory.
const startIn = "STENTOR_DATAPATH_TEST_START"

func TestMain(m *testing.M) {
	if dir := os.Getenv(startIn); dir != "" {
		d, err := Start(context.Background(), slog.New(slog.DiscardHandler), lonely(dir))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = d.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// lonely is the configuration of a node without others.
func lonely(dir string) Config {
	return Config{BPFDir: dir, IPv4: true, Tunnel: true, NodeIPs: nodeAddr(1)[:1], Router: podAddr(1, 1)[:1], PodCIDRs: podRanges(1)[:1]}
}

// newLonelyNode is a namespace in which a datapath could start.
func newLonelyNode(t *testing.T) *nstest.Namespace {
	n := nstest.New(t, "alone")
	n.Run(t, "ip link add eth0 type veth peer name other\nip link set eth0 up\nip addr add "+nodeAddr(1)[0].String()+"/24 dev eth0")
	return n
}

func startFails(t *testing.T, n *nstest.Namespace, dir string) (message string) {
	t.Helper()
	var err error
	n.Do(func() {
		var d *Datapath
		if d, err = Start(context.Background(), slog.New(slog.DiscardHandler), lonely(dir)); err == nil {
			_ = d.Close()
		}
	})
	if err == nil {
		t.Fatal("it starts")
	}
	return err.Error()
}

func wants(t *testing.T, message string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(message, text) {
			t.Errorf("the message does not say %q: %s", text, message)
		}
	}
	if strings.Contains(message, "\n") {
		t.Errorf("the message has more than one line: %s", message)
	}
}

func TestWithoutRightsTheStartNamesThem(t *testing.T) {
	nstest.RequireRoot(t)
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("needs setpriv of util-linux")
	}
	n, dir := newLonelyNode(t), filepath.Join(nstest.BPFDir(t), "n")
	for _, x := range []struct {
		what    string
		options []string
		want    []string
	}{
		{"root without capabilities", []string{"--bounding-set=-all", "--inh-caps=-all"}, []string{"CAP_BPF", "CAP_NET_ADMIN"}},
		{"root without CAP_NET_ADMIN", []string{"--bounding-set=-net_admin", "--inh-caps=-net_admin"}, []string{"CAP_NET_ADMIN"}},
		{"a user", []string{"--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"}, []string{dir, "permission denied"}},
	} {
		t.Run(x.what, func(t *testing.T) {
			var out []byte
			var err error
			n.Do(func() {
				cmd := exec.Command("setpriv", append(x.options, "/proc/self/exe")...)
				self, _ := os.Executable()
				cmd.Args[len(cmd.Args)-1] = self
				cmd.Env = append(os.Environ(), startIn+"="+dir)
				out, err = cmd.CombinedOutput()
			})
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatalf("it starts: %v %s", err, out)
			}
			wants(t, strings.TrimSpace(string(out)), x.want...)
		})
	}
}

func TestAReadOnlyBPFFileSystemIsNamed(t *testing.T) {
	nstest.RequireRoot(t)
	n, dir := newLonelyNode(t), nstest.BPFDir(t)
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wants(t, startFails(t, n, filepath.Join(dir, "n")), dir, "read-only file system")
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	wants(t, startFails(t, n, filepath.Join(dir, "n")), "pin map", "read-only file system")
	if out, _ := n.Output("ip -o link"); strings.Contains(out, "stentor") {
		t.Errorf("it has made devices: %s", out)
	}
}

// TestPinsThatAreNotOursAreRefusedByName puts something else where a table of
// ours should be.
func TestPinsThatAreNotOursAreRefusedByName(t *testing.T) {
	nstest.RequireRoot(t)
	pinMap := func(t *testing.T, path string, spec ebpf.MapSpec) {
		m, err := ebpf.NewMap(&spec)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Pin(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		what, pin string
		put       func(t *testing.T, path string)
	}{
		{"a map with smaller rows", abi.MapFlows, func(t *testing.T, path string) {
			pinMap(t, path, ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: 4, ValueSize: 4, MaxEntries: 4})
		}},
		{"a map of another kind", abi.MapEndpoints, func(t *testing.T, path string) {
			pinMap(t, path, ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 4})
		}},
		{"a program", abi.MapIpcache, func(t *testing.T, path string) {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := p.Pin(path); err != nil {
				t.Fatal(err)
			}
		}},
		{"a directory", abi.MapMetrics, func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"a bank of classes with smaller rows", "class_bank_0", func(t *testing.T, path string) {
			pinMap(t, path, ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 4, Flags: unix.BPF_F_MMAPABLE})
		}},
		{"the layout of another version", "layout", func(t *testing.T, path string) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := errors.Join(m.Put(uint32(0), uint32(4711)), m.Pin(path)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(x.what, func(t *testing.T) {
			n, dir := newLonelyNode(t), filepath.Join(nstest.BPFDir(t), "n")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			x.put(t, filepath.Join(dir, x.pin))
			wants(t, startFails(t, n, dir), filepath.Join(dir, x.pin), "stentor cleanup")
			list, err := os.ReadDir(dir)
			if err != nil || len(list) > 2 { // what was there, and the layout
				t.Errorf("%v: it has made tables beside it: %v", err, list)
			}
			if out, _ := n.Output("ip -o link"); strings.Contains(out, "stentor") {
				t.Errorf("it has made devices: %s", out)
			}
		})
	}
}
