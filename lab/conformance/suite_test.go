// SPDX-License-Identifier: Apache-2.0

// Package conformance is the network part of the upstream Kubernetes end-to-end
// suite as one test binary: with all of its parts it is nearly twice as large.
//
// "stentor-lab conformance" runs it against a lab.
package conformance

import (
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"k8s.io/kubernetes/test/e2e"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	_ "k8s.io/kubernetes/test/e2e/network"
	manifests "k8s.io/kubernetes/test/e2e/testing-manifests"
	"k8s.io/kubernetes/test/fixtures"
)

var eventsFile = flag.String("events", "", "file to append a line of JSON to for every spec that ended or was left out")

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	testfiles.AddFileSource(manifests.GetE2ETestingManifestsFS())
	testfiles.AddFileSource(fixtures.GetTestFixturesFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	// Not before: it goes through all specs once without running them, and
	// drops what was registered for reports by then.
	ginkgo.ReportAfterEach(tell)
	os.Exit(m.Run())
}

// TestNetwork runs the specs that the flags select.
func TestNetwork(t *testing.T) { e2e.RunE2ETests(t) }

// event is a line of the events file. internal/conformance of the lab's module
// reads it.
type event struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`   // of Ginkgo; "skipped" without a message was not selected
	Seconds float64 `json:"seconds"` // that the spec took
	Message string  `json:"message,omitempty"`
	At      string  `json:"at,omitempty"` // source line of the failure
}

// maxMessage keeps a line small enough to be appended at once.
const maxMessage = 2000

// tell appends an event.
func tell(r ginkgo.SpecReport) {
	if *eventsFile == "" || r.LeafNodeType != types.NodeTypeIt {
		return
	}
	e := event{Name: r.FullText(), State: r.State.String(), Seconds: r.RunTime.Seconds()}
	if !r.Failure.IsZero() {
		e.Message = r.FailureMessage()
		e.Message = e.Message[:min(len(e.Message), maxMessage)]
		e.At = r.FailureLocation().String()
	}
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	f, err := os.OpenFile(*eventsFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		panic(err)
	}
}
