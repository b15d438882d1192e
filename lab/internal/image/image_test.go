// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// archive reads an image archive into memory.
func archive(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return entries(t, f)
}

func entries(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeSymlink {
			b = []byte("-> " + h.Linkname)
		}
		out[h.Name] = b
	}
}

func newBuilder(t *testing.T) *Builder {
	t.Helper()
	b := &Builder{BinDir: t.TempDir(), Cache: t.TempDir()}
	for _, bin := range []string{"stentor", "stentor-cni", "stentor-pause"} {
		if err := os.WriteFile(filepath.Join(b.BinDir, bin), []byte("program "+bin), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func build(t *testing.T, b *Builder, name string) string {
	t.Helper()
	f, err := b.Build(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAnImageIsAnOCILayoutThatContainerdCanRead(t *testing.T) {
	b := newBuilder(t)
	files := archive(t, filepath.Join(b.Cache, build(t, b, Stentor)))
	var index struct {
		Manifests []descriptor
	}
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != "docker.io/library/stentor:dev" {
		t.Errorf("the image is called %q", got)
	}
	for name, content := range files {
		if want, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && digestOf(content) != "sha256:"+want {
			t.Errorf("blob %s has digest %s", name, digestOf(content))
		}
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal(files[blobPath(index.Manifests[0].Digest)], &manifest); err != nil {
		t.Fatal(err)
	}
	var config struct {
		Config Config
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[blobPath(manifest.Config.Digest)], &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/usr/bin/stentor" {
		t.Errorf("entrypoint is %v", config.Config.Entrypoint)
	}
	if config.Rootfs.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Error("an uncompressed layer's digest differs from its diff id")
	}
	root := entries(t, bytes.NewReader(files[blobPath(manifest.Layers[0].Digest)]))
	for _, bin := range []string{"stentor", "stentor-cni"} {
		if got := string(root["usr/bin/"+bin]); got != "program "+bin {
			t.Errorf("usr/bin/%s holds %q", bin, got)
		}
	}
}

func TestAnImageIsBuiltAnewOnlyWhenItsBinaryChanged(t *testing.T) {
	b := newBuilder(t)
	first := build(t, b, Pause)
	info, err := os.Stat(filepath.Join(b.Cache, first))
	if err != nil {
		t.Fatal(err)
	}
	if again := build(t, b, Pause); again != first {
		t.Errorf("got %s for the same binary, want %s", again, first)
	}
	if now, err := os.Stat(filepath.Join(b.Cache, first)); err != nil || !now.ModTime().Equal(info.ModTime()) {
		t.Errorf("the archive was written again (%v)", err)
	}
	old := time.Now().Add(-2 * pruneAge)
	if err := os.Chtimes(filepath.Join(b.Cache, first), old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.BinDir, "stentor-pause"), []byte("another program"), 0o755); err != nil {
		t.Fatal(err)
	}
	second := build(t, b, Pause)
	if second == first {
		t.Error("a changed binary gives the same archive")
	}
	if _, err := os.Stat(filepath.Join(b.Cache, first)); !os.IsNotExist(err) {
		t.Errorf("the old archive is still there (%v)", err)
	}
}

func TestNamesAreWhatContainerdLooksUp(t *testing.T) {
	for in, want := range map[string]string{
		"app":                    "docker.io/library/app:latest",
		"app:dev":                "docker.io/library/app:dev",
		"me/app:dev":             "docker.io/me/app:dev",
		"registry.example/app:1": "registry.example/app:1",
		"localhost/app:1":        "localhost/app:1",
	} {
		if got := FullName(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

func TestDebianPackagesAreMergedIntoUsr(t *testing.T) {
	var deb bytes.Buffer
	tw := tar.NewWriter(&deb)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "./bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./bin/tool", Mode: 0o755},
		{Typeflag: tar.TypeSymlink, Name: "./usr/bin/other", Linkname: "tool"},
		{Typeflag: tar.TypeReg, Name: "./usr/share/doc/tool/README", Mode: 0o644},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer")
	l, err := makeLayer(path, func(w *layerWriter) error { return addTar(w, &deb) })
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := entries(t, f)
	for name, want := range map[string]bool{"usr/bin/tool": true, "usr/bin/other": true, "bin/tool": false, "usr/share/doc/tool/README": false} {
		if _, ok := got[name]; ok != want {
			t.Errorf("%s in the layer: %v, want %v", name, ok, want)
		}
	}
}

func TestAnUnknownImageIsAnError(t *testing.T) {
	if _, err := newBuilder(t).Build("nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("got %v, want an error that names the image", err)
	}
}

func TestAnImageCanHaveSeveralNames(t *testing.T) {
	b := newBuilder(t)
	path := filepath.Join(b.Cache, "two.tar")
	if err := writeArchive(path, []string{"one:dev", "registry.example/two:1"}, Config{}, nil); err != nil {
		t.Fatal(err)
	}
	var index struct {
		Manifests []descriptor
	}
	if err := json.Unmarshal(archive(t, path)["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations["io.containerd.image.name"])
		if m.Digest != index.Manifests[0].Digest {
			t.Errorf("%v has digest %s, the first has %s", names, m.Digest, index.Manifests[0].Digest)
		}
	}
	if want := "docker.io/library/one:dev registry.example/two:1"; strings.Join(names, " ") != want {
		t.Errorf("names %q, want %q", names, want)
	}
}
