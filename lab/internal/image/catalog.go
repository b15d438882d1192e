// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names of the lab's images, as pods write them.
const (
	Pause   = "pause:dev"
	Stentor = "stentor:dev"
	App     = "stentor-app:dev"
	CoreDNS = "coredns:dev"
)

// recipe says how an image is made.
type recipe struct {
	name     string
	aliases  []string // more names of the same image
	binaries []string // names in the binary folder, all needed
	packages []string // Debian packages to put below, if any
	links    map[string]string
	extra    func(*layerWriter) error // more files; may be nil
	config   Config
}

func (r recipe) names() []string { return append([]string{r.name}, r.aliases...) }

var recipes = []recipe{
	{name: Pause, binaries: []string{"stentor-pause"}, config: Config{Entrypoint: []string{"/usr/bin/stentor-pause"}, User: "65535:65535"}},
	{name: CoreDNS, binaries: []string{"coredns"}, config: Config{Entrypoint: []string{"/usr/bin/coredns"}}},
	{
		name: Stentor, binaries: []string{"stentor", "stentor-cni"},
		// The names by which runbooks call such an agent's commands.
		links:  map[string]string{"usr/bin/cilium": "stentor", "usr/bin/cilium-dbg": "stentor", "usr/bin/hubble": "stentor"},
		config: Config{Entrypoint: []string{"/usr/bin/stentor"}},
	},
	{
		name: App, binaries: []string{"stentor-app"}, packages: appPackages,
		// Not busybox as sh: it prefers its own ping, nc and ip.
		links:  map[string]string{"usr/bin/nc": "nc.openbsd", "usr/bin/dig": "drill", "usr/bin/sh": "bash"},
		config: Config{Entrypoint: []string{"/usr/bin/stentor-app"}, Cmd: []string{"http"}},
	},
	agnhost, boom,
	{name: upstreamPause, binaries: []string{"stentor-pause"}, config: Config{Entrypoint: []string{"/usr/bin/stentor-pause"}, User: "65535:65535"}},
}

// Binaries names every binary that the images need, except the product's
// own, which only some labs need.
func Binaries(names []string) []string {
	var out []string
	for _, n := range names {
		if r, ok := find(n); ok {
			out = append(out, r.binaries...)
		}
	}
	return out
}

func find(name string) (recipe, bool) {
	for _, r := range recipes {
		if r.name == name {
			return r, true
		}
	}
	return recipe{}, false
}

// Builder makes images and keeps them.
type Builder struct {
	BinDir string            // where the binaries are
	Cache  string            // where archives are kept
	Note   func(text string) // told before slow work; may be nil
}

// Build returns the archive of the named image in the cache, made anew only
// if what goes into it changed since.
func (b *Builder) Build(name string) (file string, err error) {
	r, ok := find(name)
	if !ok {
		return "", fmt.Errorf("image %s: there is no such image of the lab", name)
	}
	key, err := b.key(r)
	if err != nil {
		return "", err
	}
	unlock, err := b.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	stem := strings.NewReplacer(":", "-", "/", "-").Replace(r.name)
	file = stem + "-" + key + ".tar"
	path := filepath.Join(b.Cache, file)
	if _, err := os.Stat(path); err == nil {
		return file, nil
	}
	var layers []layer
	if len(r.packages) > 0 {
		l, err := b.toolLayer(r.packages)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", name, err)
		}
		layers = append(layers, l)
	}
	tmp := filepath.Join(b.Cache, stem+".layer")
	defer os.Remove(tmp)
	l, err := makeLayer(tmp, func(w *layerWriter) error { return b.fill(w, r) })
	if err != nil {
		return "", fmt.Errorf("image %s: %w", name, err)
	}
	if err := writeArchive(path, r.names(), r.config, append(layers, l)); err != nil {
		return "", err
	}
	return file, b.prune(stem, file)
}

// lock lets one process at a time work in the cache; others wait.
func (b *Builder) lock() (unlock func(), err error) {
	if err := os.MkdirAll(b.Cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(b.Cache)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", b.Cache, err)
	}
	return func() { f.Close() }, nil
}

func (b *Builder) fill(w *layerWriter, r recipe) error {
	for _, bin := range r.binaries {
		if err := w.file("usr/bin/"+bin, filepath.Join(b.BinDir, bin)); err != nil {
			return err
		}
	}
	for _, from := range slices.Sorted(maps.Keys(r.links)) {
		if err := w.link(tar.TypeSymlink, from, r.links[from]); err != nil {
			return err
		}
	}
	if r.extra != nil {
		if err := r.extra(w); err != nil {
			return err
		}
	}
	if len(r.packages) > 0 {
		return nil // these files are in the tools' layer
	}
	if err := w.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"); err != nil {
		return err
	}
	return w.dir("tmp", 0o1777)
}

// key stands for all that goes into an image.
func (b *Builder) key(r recipe) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %v", r.names(), r.config, r.links)
	if len(r.packages) > 0 {
		fmt.Fprintf(h, "%q %q %q %q", r.packages, dropped, unwanted, applets)
	}
	for _, bin := range r.binaries {
		// The content, not the time: every build writes the file anew.
		f, err := os.Open(filepath.Join(b.BinDir, bin))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s ", bin)
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// pruneAge is how long another lab may take from naming an archive to reading it.
const pruneAge = 10 * time.Minute

// prune removes old archives of the image that are not keep.
func (b *Builder) prune(stem, keep string) error {
	old, err := filepath.Glob(filepath.Join(b.Cache, stem+"-????????????.tar"))
	if err != nil {
		return err
	}
	for _, f := range old {
		info, err := os.Stat(f)
		if err == nil && filepath.Base(f) != keep && time.Since(info.ModTime()) > pruneAge {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// toolLayer makes or finds the layer with Debian packages, which is the slow
// part of an image and does not change with the program.
func (b *Builder) toolLayer(packages []string) (layer, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q", packages, dropped, unwanted, applets)
	key := hex.EncodeToString(h.Sum(nil))[:12]
	path := filepath.Join(b.Cache, "tools-"+key+".layer")
	meta := path + ".json"
	var l layer
	if raw, err := os.ReadFile(meta); err == nil {
		var saved struct {
			Digest string
			Size   int64
		}
		if json.Unmarshal(raw, &saved) == nil {
			if info, err := os.Stat(path); err == nil && info.Size() == saved.Size {
				return layer{path: path, digest: saved.Digest, size: saved.Size}, nil
			}
		}
	}
	if b.Note != nil {
		b.Note("downloading Debian packages for an image (once): " + strings.Join(packages, " "))
	}
	debs, err := downloadDebs(filepath.Join(b.Cache, "debian-"+key), packages)
	if err != nil {
		return l, err
	}
	l, err = makeLayer(path, func(w *layerWriter) error { return fillTools(w, debs) })
	if err != nil {
		return l, err
	}
	raw, err := json.Marshal(map[string]any{"Digest": l.digest, "Size": l.size})
	if err != nil {
		return l, err
	}
	return l, os.WriteFile(meta, raw, 0o644)
}

func fillTools(w *layerWriter, debs []string) error {
	for name, content := range map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if err := w.text(name, content); err != nil {
			return err
		}
	}
	if err := w.dir("tmp", 0o1777); err != nil {
		return err
	}
	if err := addDebs(w, debs); err != nil {
		return err
	}
	applets := strings.Fields(applets)
	sort.Strings(applets)
	for _, a := range applets {
		if name := "usr/bin/" + a; !w.seen[name] {
			if err := w.link(tar.TypeSymlink, name, "busybox"); err != nil {
				return err
			}
		}
	}
	return nil
}

// applets are the programs for which busybox stands in.
const applets = `awk basename cat chmod chown clear cp cut date dd df dirname du echo env expr false find free
grep head hostname id ifconfig kill less ln ls md5sum mkdir mkfifo mktemp more mount mv netstat nslookup od
pgrep pidof printf ps pwd readlink realpath rm rmdir route sed seq sha256sum sleep sort stat stty tail tar tee
telnet test time timeout top touch tr traceroute true umount uname uniq uptime usleep vi watch wc which whoami xargs yes`
