// SPDX-License-Identifier: Apache-2.0

package rundir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/api/rest"
)

func TestADeletionStaysUntilItIsCarriedOut(t *testing.T) {
	dir := Dir(t.TempDir())
	for _, id := range []string{"a", "b", strings.Repeat("long", 200)} {
		if err := dir.QueueDeletion(rest.CNIRequest{ContainerID: id, IfName: "eth0"}); err != nil {
			t.Fatal(err)
		}
	}
	refuse := errors.New("not now")
	err := dir.DrainDeletions(func(r rest.CNIRequest) error {
		if r.ContainerID == "b" {
			return refuse
		}
		return nil
	})
	if !errors.Is(err, refuse) || !strings.Contains(err.Error(), "container b") {
		t.Errorf("got %v", err)
	}
	if n, err := dir.Deletions(); n != 1 || err != nil {
		t.Errorf("%d left, %v", n, err)
	}
	if err := dir.ForgetDeletion(rest.CNIRequest{ContainerID: "b", IfName: "eth0"}); err != nil {
		t.Error(err)
	}
	if n, _ := dir.Deletions(); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestAFileThatIsNoDeletionIsReportedAndGoes(t *testing.T) {
	dir := Dir(t.TempDir())
	if err := dir.QueueDeletion(rest.CNIRequest{ContainerID: "a"}); err != nil {
		t.Fatal(err)
	}
	files, _ := dir.files()
	if err := os.WriteFile(files[0], []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := dir.DrainDeletions(func(rest.CNIRequest) error { t.Error("called"); return nil }); err == nil {
		t.Error("nothing reported")
	}
	if n, _ := dir.Deletions(); n != 0 {
		t.Errorf("%d left", n)
	}
}

func TestAnEmptyRunDirectoryHasNothingToDrain(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "none"))
	if err := dir.DrainDeletions(func(rest.CNIRequest) error { t.Error("called"); return nil }); err != nil {
		t.Error(err)
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	dir := Dir(t.TempDir())
	if err := dir.QueueDeletion(rest.CNIRequest{ContainerID: "first"}); err != nil {
		t.Fatal(err)
	}
	for i := range MaxDeletions - 1 {
		if err := os.WriteFile(filepath.Join(string(dir), queueName, fmt.Sprint(i, suffix)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.QueueDeletion(rest.CNIRequest{ContainerID: "last"}); !errors.Is(err, ErrQueueFull) {
		t.Errorf("got %v", err)
	}
}

func TestABeatRenewsTheTime(t *testing.T) {
	dir := Dir(t.TempDir())
	if _, ever := dir.LastBeat(); ever {
		t.Error("ready before the first beat")
	}
	if err := dir.Beat(); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(string(dir), beatName), old, old); err != nil {
		t.Fatal(err)
	}
	if err := dir.Beat(); err != nil {
		t.Fatal(err)
	}
	if last, ever := dir.LastBeat(); !ever || time.Since(last) > time.Minute {
		t.Errorf("last beat %v", last)
	}
}
