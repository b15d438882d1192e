// SPDX-License-Identifier: Apache-2.0

package http

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCurlSeesAnswersAndDenials(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("0123456789", 200_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		version, server string
	}{{"--http1.1", serverOf(t, echo)}, {"--http1.0", serverOf(t, echo)}, {"--http2-prior-knowledge", h2Server(t, echo)}, {"--http2", serverOf(t, echo)}} {
		p := through(t, x.server, rule(`{"method":"POST","path":"/v1/request-landing"},{"method":"GET","path":"/v1/.*"}`))
		run := func(args ...string) string {
			t.Helper()
			args = append([]string{"-sS", "-m", "20", "-w", " %{http_code}", x.version}, args...)
			out, err := exec.Command(curl, args...).CombinedOutput()
			if err != nil {
				t.Errorf("curl %q: %v: %s", args, err, out)
			}
			return string(out)
		}
		url := "http://" + p.addr
		if got := run("-X", "POST", "-d", "tie=1", url+"/v1/request-landing"); got != "POST /v1/request-landing tie=1 200" {
			t.Errorf("%s allowed: %q", x.version, got)
		}
		if got := run("-X", "PUT", url+"/v1/exhaust-port"); got != denied+" 403" {
			t.Errorf("%s denied: %q", x.version, got)
		}
		if got := run("--path-as-is", url+"/v1/../admin"); got != denied+" 403" {
			t.Errorf("%s a way up: %q", x.version, got)
		}
		if got := run("--data-binary", "@"+big, "-H", "Expect: 100-continue", "-o", "/dev/null", url+"/v1/request-landing"); got != " 200" {
			t.Errorf("%s large: %q", x.version, got)
		}
		if got := run("--data-binary", "@"+big, "-o", "/dev/null", url+"/no"); got != " 403" {
			t.Errorf("%s large and denied: %q", x.version, got)
		}
	}
}
