// SPDX-License-Identifier: Apache-2.0

package k8s_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stentor-net/stentor/internal/k8s"
	"github.com/stentor-net/stentor/internal/k8s/k8stest"
)

func TestOneMatterIsOneEvent(t *testing.T) {
	s := k8stest.New(t)
	c := s.Client()
	const path = "api/v1/namespaces/default/events"
	e := k8s.NodeEvent{
		Node: "n1", NodeUID: "u1", Warning: true, Reason: "NodesUnreachable", Message: "n2 does not answer",
		First: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Count: 1, From: "stentor-agent",
	}
	tell := func() {
		t.Helper()
		if err := c.TellEvent(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	tell()
	e.Count, e.Message = 2, strings.Repeat("x", 2000)
	tell()
	names := s.Names(path)
	if len(names) != 1 || !strings.HasPrefix(names[0], "default/n1.") {
		t.Fatalf("got %v", names)
	}
	got := s.Object(path + strings.TrimPrefix(names[0], "default"))
	involved, _ := got["involvedObject"].(k8stest.Object)
	if fmt.Sprint(involved["kind"], involved["name"], involved["uid"]) != "Noden1u1" || fmt.Sprint(got["count"]) != "2" || got["type"] != "Warning" ||
		len(got["message"].(string)) != 1024 || got["firstTimestamp"] != "2030-01-01T00:00:00Z" {
		t.Errorf("got %v", got)
	}
	e.First = e.First.Add(time.Hour) // it begins anew
	tell()
	if names := s.Names(path); len(names) != 2 {
		t.Errorf("got %v", names)
	}
}
