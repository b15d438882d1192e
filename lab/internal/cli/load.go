// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stentor-net/stentor/lab/internal/cluster"
	"github.com/stentor-net/stentor/lab/internal/image"
	"github.com/stentor-net/stentor/lab/internal/progress"
)

// defaultCache is where built images are kept.
func defaultCache(bins string) string {
	if repo := repoDir(bins); repo != "" {
		return filepath.Join(repo, ".build/images")
	}
	return "/var/cache/stentor-lab/images"
}

func runLoad(cmd *cobra.Command, lab *cluster.Lab, cache, name string) error {
	out := progress.New(os.Stderr)
	path := name
	if _, err := os.Stat(name); err != nil {
		bins, err := binDir()
		if err != nil {
			return err
		}
		if cache == "" {
			cache = defaultCache(bins)
		}
		b := image.Builder{BinDir: bins, Cache: cache, Note: func(s string) { out.Note("%s", s) }}
		file, err := b.Build(name)
		if err != nil {
			return fmt.Errorf("%q is no file, and: %w", name, err)
		}
		path = filepath.Join(cache, file)
	}
	if err := lab.LoadArchive(cmd.Context(), path); err != nil {
		return err
	}
	out.Step("%s imported into %d nodes", name, len(lab.Plan.Nodes))
	return nil
}
