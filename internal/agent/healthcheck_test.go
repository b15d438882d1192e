// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stentor-net/stentor/internal/service"
)

func TestHealthCheckPortsSayWhetherTheNodeHasABackend(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	free.Close()
	tables, _, own := newTables()
	h := newHealthCheckPorts(slog.New(slog.DiscardHandler), tables)
	ask := func() (int, string) {
		t.Helper()
		h.listen()
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil {
			return 0, err.Error()
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode, strings.TrimSpace(string(b))
	}
	f := service.Frontend{Service: "default/web", Addr: addrs("198.51.100.2")[0], Port: 80, Protocol: 6, Scope: service.External, HealthCheck: port}
	own.frontends.Upsert(f)
	if code, body := ask(); code != 503 || body != `{"service":{"namespace":"default","name":"web"},"localEndpoints":0,"serviceProxyHealthy":true}` {
		t.Errorf("without backend: %d %s", code, body)
	}
	f.Backends = []service.Backend{{Addr: addrs("10.0.0.1")[0], State: service.Active}, {Addr: addrs("10.0.0.2")[0], State: service.Terminating}}
	own.frontends.Upsert(f)
	if code, body := ask(); code != 200 || !strings.Contains(body, `"localEndpoints":1`) {
		t.Errorf("with one: %d %s", code, body)
	}
	f.Backends = f.Backends[1:] // it serves while it ends, but no new clients are to be sent here
	own.frontends.Upsert(f)
	if code, body := ask(); code != 503 {
		t.Errorf("with one that ends: %d %s", code, body)
	}
	own.frontends.Delete(f.Key())
	if code, body := ask(); code != 0 {
		t.Errorf("after the service has gone: %d %s", code, body)
	}
}
