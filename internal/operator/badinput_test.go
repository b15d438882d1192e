// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

// lines collects what is logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

func TestAnOperatorWithoutTheAPIServerSaysSoAndGoesOnWhenItIsBack(t *testing.T) {
	s := k8stest.New(t)
	s.Put(nodes+"/a", `{"spec":{}}`)
	all := func(_, _ string) bool { return true }
	s.Fail(all)
	var said lines
	start(t, s, Options{PodRanges: small(), Log: slog.New(slog.NewTextHandler(&said, nil))})
	for end := time.Now().Add(10 * time.Second); !said.has("told to fail"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not say why nothing happens: %s", said.b.String())
		}
	}
	s.Fail(nil)
	s.Wait("a has ranges", func() bool { return ranges4(s, "a") == "[10.0.0.0/24 fd00::/120]" })
	s.Fail(all)
	s.Put(nodes+"/b", `{"spec":{}}`)
	s.Fail(nil)
	s.Wait("b has ranges", func() bool { return ranges4(s, "b") == "[10.0.1.0/24 fd00::100/120]" })
}
