// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stentor-net/stentor/internal/file"
)

// asideSuffix is put behind the names of other configurations, so that the
// runtime does not read them. Removing Stentor gives the names back.
const asideSuffix = ".stentor_bak"

// cniConf keeps the CNI configuration in place while the agent runs; it stays
// when the agent goes, so that pods can start as soon as there is an agent.
type cniConf struct {
	opts   Options
	checks *checks
}

const cniConfEvery = 10 * time.Second

// content of the configuration.
func (c *cniConf) content() ([]byte, error) {
	type plugin map[string]any
	plugins := []plugin{{
		"type": "stentor-cni", "socket": c.opts.SocketPath,
		"log-level": map[bool]string{true: "debug", false: "info"}[c.opts.Debug],
	}}
	if c.opts.CNIChaining == ChainingPortmap && !c.opts.Service.AllKinds { // else host ports are ours
		plugins = append(plugins, plugin{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}})
	}
	list := map[string]any{"cniVersion": "1.0.0", "name": "stentor", "plugins": plugins}
	if len(plugins) == 1 {
		// A runtime takes the newest version that it knows, and a chained
		// plugin of the node may not know it.
		list["cniVersions"] = []string{"1.0.0", "1.1.0"}
	}
	out, err := json.MarshalIndent(list, "", "  ")
	return append(out, '\n'), err
}

// Run writes the configuration and puts others aside, again and again: a tool
// that installs another network may come at any time.
func (c *cniConf) Run(ctx context.Context) error {
	if c.opts.CNIConfFile == "" || c.opts.CustomCNIConf {
		c.checks.disabled("cni", "the configuration is left to somebody else")
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for {
		if err := c.install(); err != nil {
			c.checks.fail("cni", err.Error(), "network of new pods", "tried again every 10 seconds")
		} else {
			c.checks.ok("cni", c.opts.CNIConfFile)
		}
		if err := pause(ctx, cniConfEvery); err != nil {
			return err
		}
	}
}

func (c *cniConf) install() error {
	want, err := c.content()
	if err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if have, err := os.ReadFile(c.opts.CNIConfFile); err != nil || !bytes.Equal(have, want) {
		if err := file.Write(c.opts.CNIConfFile, want, 0o644); err != nil {
			return fmt.Errorf("write CNI configuration: %w", err)
		}
	}
	if !c.opts.CNIExclusive {
		return nil
	}
	dir := filepath.Dir(c.opts.CNIConfFile)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("put other CNI configurations aside: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.IsDir() || name == c.opts.CNIConfFile || !isCNIConf(name) {
			continue
		}
		if err := os.Rename(name, name+asideSuffix); err != nil {
			return fmt.Errorf("put other CNI configurations aside: %w", err)
		}
	}
	return nil
}

func isCNIConf(name string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name))
}

// RemoveCNIConf takes the configuration away and gives other ones their names
// back. It is for removing Stentor from a node, not for stopping the agent.
func RemoveCNIConf(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove CNI configuration: %w", err)
	}
	aside, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*"+asideSuffix))
	if err != nil {
		return fmt.Errorf("remove CNI configuration: %w", err)
	}
	var errs []error
	for _, name := range aside {
		errs = append(errs, os.Rename(name, strings.TrimSuffix(name, asideSuffix)))
	}
	return errors.Join(errs...)
}
