// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// appPackages are the Debian packages of the app image.
var appPackages = []string{
	"bash", "busybox-static", "curl", "iperf3", "iproute2", "iputils-ping", "ldnsutils", "netcat-openbsd", "tcpdump",
}

// dropped are folders of packages that no one reads in a test image.
var dropped = []string{
	"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/",
	"usr/share/bash-completion/", "usr/share/zoneinfo/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/aarch64-linux-gnu/gconv/",
	"usr/lib/x86_64-linux-gnu/perl", "usr/share/perl", "usr/lib/locale/", "usr/share/i18n/", "var/cache/", "var/lib/dpkg/",
	"usr/lib/systemd/", "usr/share/initramfs-tools/", "usr/share/terminfo/", "usr/share/common-licenses/",
	"usr/share/gcc/", "usr/share/gdb/", "usr/lib/init/", "lib/systemd/", "usr/share/menu/", "usr/share/pixmaps/",
	"usr/lib/x86_64-linux-gnu/libdb-5.3", "usr/bin/perl", "usr/share/debconf/", "usr/share/apparmor/",
}

// unwanted are packages of the closure that only their maintainer scripts or
// parts left out need.
var unwanted = []string{
	"perl-base", "debconf", "cdebconf", "dpkg", "tar", "passwd", "base-passwd", "init-system-helpers", "adduser",
	"libpam", "libdebian-installer", "libsemanage", "libsepol", "sensible-utils", "debianutils", "gcc-12-base",
}

// downloadDebs fetches packages and what they depend on into dir, without
// touching the machine's package state.
func downloadDebs(dir string, packages []string) ([]string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, errors.New("apt-get is not here: images with tools are built from Debian packages (run on Debian or Ubuntu)")
	}
	if err := os.MkdirAll(filepath.Join(dir, "archives/partial"), 0o755); err != nil {
		return nil, err
	}
	status := filepath.Join(dir, "status")
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	args := []string{
		"-qq", "-y", "--no-install-recommends", "--download-only",
		"-o", "Dir::State::status=" + status, "-o", "Dir::Cache::archives=" + filepath.Join(dir, "archives"),
		"-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "install",
	}
	out, err := exec.Command("apt-get", append(args, packages...)...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("download Debian packages (run apt-get update first?): %w: %s", err, lastLine(out))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "archives/*.deb"))
	if err != nil {
		return nil, err
	}
	slices.Sort(debs)
	return slices.DeleteFunc(debs, func(deb string) bool {
		name, _, _ := strings.Cut(filepath.Base(deb), "_")
		return slices.ContainsFunc(unwanted, func(u string) bool { return strings.HasPrefix(name, u) })
	}), nil
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// addDebs unpacks packages into the layer, with /bin, /sbin and /lib merged
// into /usr as on an installed system. Maintainer scripts are not run.
func addDebs(w *layerWriter, debs []string) error {
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := w.dir("usr/"+l, 0o755); err != nil {
			return err
		}
		if err := w.link(tar.TypeSymlink, l, "usr/"+l); err != nil {
			return err
		}
	}
	for _, deb := range debs {
		cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := addTar(w, out); err != nil {
			return errors.Join(fmt.Errorf("unpack %s: %w", filepath.Base(deb), err), cmd.Wait())
		}
		// dpkg-deb pads the stream after its last entry.
		if _, err := io.Copy(io.Discard, out); err != nil {
			return err
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	return nil
}

func addTar(w *layerWriter, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := merged(h.Name)
		if name == "" || w.seen[name] || slices.ContainsFunc(dropped, func(d string) bool { return strings.HasPrefix(name+"/", d) }) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = w.dir(name, h.Mode)
		case tar.TypeSymlink:
			err = w.link(tar.TypeSymlink, name, h.Linkname)
		case tar.TypeLink:
			err = w.link(tar.TypeLink, name, merged(h.Linkname))
		case tar.TypeReg:
			err = w.stream(name, h.Mode, h.Size, tr)
		}
		if err != nil {
			return err
		}
	}
}

// merged cleans a name and moves /bin, /sbin and /lib* below /usr.
func merged(name string) string {
	name = strings.Trim(strings.TrimPrefix(filepath.Clean("/"+name), "/"), "/")
	for _, top := range []string{"bin", "sbin", "lib", "lib64"} {
		if name == top {
			return ""
		}
		if strings.HasPrefix(name, top+"/") {
			return "usr/" + name
		}
	}
	return name
}
