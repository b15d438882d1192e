// SPDX-License-Identifier: Apache-2.0

// Package image builds container images on this machine, without a registry.
//
// An image is an OCI image layout in one tar archive, as "ctr images import"
// reads it: uncompressed, because it never crosses a network.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Config is what a container of an image runs by default.
type Config struct {
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
	User       string   `json:"User,omitempty"`
}

// layer is a finished layer: a tar file on disk.
type layer struct {
	path   string
	digest string // of the tar, "sha256:..."
	size   int64
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// FullName is the name under which containerd looks an image up, for one as
// people write it in a pod: "app:dev" is "docker.io/library/app:dev".
func FullName(name string) string {
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	host, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return "docker.io/library/" + name
	case strings.ContainsAny(host, ".:") || host == "localhost":
		return name
	}
	return "docker.io/" + name
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// writeArchive writes the image, under all its names, to path, at once or not
// at all.
func writeArchive(path string, names []string, cfg Config, layers []layer) error {
	tmp := path + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	defer f.Close()
	if err := writeLayout(f, names, cfg, layers); err != nil {
		return fmt.Errorf("image %s: %w", names[0], err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func writeLayout(w io.Writer, names []string, cfg Config, layers []layer) error {
	tw := tar.NewWriter(w)
	put := func(name string, b []byte) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b))}); err != nil {
			return err
		}
		_, err := tw.Write(b)
		return err
	}
	putJSON := func(v any, mediaType string) (descriptor, error) {
		b, err := json.Marshal(v)
		if err != nil {
			return descriptor{}, err
		}
		d := descriptor{MediaType: mediaType, Digest: digestOf(b), Size: int64(len(b))}
		return d, put(blobPath(d.Digest), b)
	}
	if err := put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	here := &platform{Architecture: runtime.GOARCH, OS: "linux"}
	var diffs []string
	var descs []descriptor
	for _, l := range layers {
		diffs = append(diffs, l.digest)
		descs = append(descs, descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: l.digest, Size: l.size})
		if err := copyBlob(tw, l); err != nil {
			return err
		}
	}
	config, err := putJSON(map[string]any{
		"architecture": here.Architecture, "os": here.OS, "config": cfg,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	}, "application/vnd.oci.image.config.v1+json")
	if err != nil {
		return err
	}
	manifest, err := putJSON(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descs,
	}, "application/vnd.oci.image.manifest.v1+json")
	if err != nil {
		return err
	}
	manifest.Platform = here
	var manifests []descriptor
	for _, n := range names {
		m := manifest
		m.Annotations = map[string]string{"io.containerd.image.name": FullName(n), "org.opencontainers.image.ref.name": FullName(n)}
		manifests = append(manifests, m)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		return err
	}
	if err := put("index.json", index); err != nil {
		return err
	}
	return tw.Close()
}

func blobPath(digest string) string {
	return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:")
}

func copyBlob(tw *tar.Writer, l layer) error {
	f, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(&tar.Header{Name: blobPath(l.digest), Mode: 0o644, Size: l.size}); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// layerWriter writes a layer: names are relative, owners root, times zero, so
// that equal content gives an equal digest.
type layerWriter struct {
	tw   *tar.Writer
	seen map[string]bool
}

// makeLayer writes a layer file to path with fill.
func makeLayer(path string, fill func(*layerWriter) error) (layer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return layer{}, err
	}
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return layer{}, err
	}
	defer os.Remove(path + ".tmp")
	defer f.Close()
	h := sha256.New()
	w := &layerWriter{tw: tar.NewWriter(io.MultiWriter(f, h)), seen: map[string]bool{}}
	if err := fill(w); err != nil {
		return layer{}, err
	}
	if err := w.tw.Close(); err != nil {
		return layer{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return layer{}, err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return layer{}, err
	}
	return layer{path: path, digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), size: info.Size()}, nil
}

// dirs writes the parents of name that are not there yet.
func (w *layerWriter) dirs(name string) error {
	dir := filepath.Dir(name)
	if dir == "." || w.seen[dir] {
		return nil
	}
	if err := w.dirs(dir); err != nil {
		return err
	}
	w.seen[dir] = true
	return w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

func (w *layerWriter) dir(name string, mode int64) error {
	if w.seen[name] {
		return nil
	}
	if err := w.dirs(name); err != nil {
		return err
	}
	w.seen[name] = true
	return w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

// file copies a file of this machine into the layer.
func (w *layerWriter) file(name, source string) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return w.stream(name, int64(info.Mode().Perm()), info.Size(), f)
}

func (w *layerWriter) text(name, content string) error {
	return w.stream(name, 0o644, int64(len(content)), bytes.NewReader([]byte(content)))
}

func (w *layerWriter) stream(name string, mode, size int64, r io.Reader) error {
	if err := w.dirs(name); err != nil {
		return err
	}
	w.seen[name] = true
	if err := w.tw.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(w.tw, r)
	return err
}

func (w *layerWriter) link(kind byte, name, target string) error {
	if err := w.dirs(name); err != nil {
		return err
	}
	w.seen[name] = true
	return w.tw.WriteHeader(&tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777})
}
