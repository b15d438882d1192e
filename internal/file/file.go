// SPDX-License-Identifier: Apache-2.0

// Package file writes files that appear whole or not at all.
package file

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces a file in one step, and makes its folder where there is none.
// Readers see the old content or the new one, also after the process died.
func Write(path string, content []byte, mode os.FileMode) error {
	return write(path, content, mode, false)
}

// WriteDurable is Write for what a crash of the machine must not lose: it
// returns when the content is on the disk.
func WriteDurable(path string, content []byte, mode os.FileMode) error {
	return write(path, content, mode, true)
}

func write(path string, content []byte, mode os.FileMode, durable bool) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already when all went well
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(mode))
	if durable {
		err = errors.Join(err, tmp.Sync())
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil || !durable {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
