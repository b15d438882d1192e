// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/stentor-net/stentor/internal/l7"
	"github.com/stentor-net/stentor/internal/policy"
	"github.com/stentor-net/stentor/internal/proxy/wire"
	"github.com/stentor-net/stentor/internal/table"
)

// ProxySocket is the name of the socket beside the agent's own on which the
// proxy of the node gets its rules.
const ProxySocket = "proxy.sock"

// l7Rules keeps the table of L7 rules in step with what the kernel names, and
// the proxies in step with the table.
type l7Rules struct {
	log    *slog.Logger
	writer *table.Writer[l7.Source]
	server *wire.Server
	next   []l7.Source // what the kernel names once the steps are carried out
	due    bool        // next is not in the table yet
}

// proxyWithin bounds the wait for a proxy: one that hangs must not hold up
// policy. What it does not know it denies.
const proxyWithin = 100 * time.Millisecond

func newL7Table() (*table.Table[l7.Source], *table.Writer[l7.Source]) {
	return table.New(table.Options[l7.Source]{
		Name: "l7rules",
		Key:  func(s l7.Source) string { return strconv.FormatUint(uint64(s.Number), 10) },
		Columns: []table.Column[l7.Source]{
			{Name: "NUMBER", Value: func(s l7.Source) string { return strconv.FormatUint(uint64(s.Number), 10) }},
			{Name: "RULES", Value: func(s l7.Source) string { return fmt.Sprint(s.Lines) }},
		},
	})
}

// before gives the proxies the rules that steps are about to name, beside those
// that are named until then, if there is any change.
func (r *l7Rules) before(e Engine, changed bool) {
	if r == nil || !changed {
		return
	}
	r.next, r.due = e.L7(), true
	both := map[uint32]l7.Source{}
	for _, s := range append(rowsOf(r.writer.Table()), r.next...) {
		both[s.Number] = s
	}
	version := r.put(slices.Collect(maps.Values(both)))
	ctx, cancel := context.WithTimeout(context.Background(), proxyWithin)
	defer cancel()
	if err := r.server.Wait(ctx, version); err != nil {
		r.log.Warn("the proxy lags behind: new L7 rules deny until it has them", "error", err)
	}
}

// after forgets the rules that nothing names any more.
func (r *l7Rules) after() {
	if r != nil && r.due {
		r.put(r.next)
		r.next, r.due = nil, false
	}
}

func (r *l7Rules) put(rules []l7.Source) uint64 {
	slices.SortFunc(rules, func(a, b l7.Source) int { return cmp.Compare(a.Number, b.Number) })
	r.writer.Replace(rules, func(a, b l7.Source) bool { return slices.Equal(a.Lines, b.Lines) })
	return r.server.Set(rules)
}

// namesRules tells whether steps change which L7 rules are named.
func namesRules(ops []policy.Op) bool {
	return slices.ContainsFunc(ops, func(op policy.Op) bool {
		switch op.(type) {
		case policy.WriteSet, policy.DeleteSet:
			return true
		}
		return false
	})
}

// serveProxy answers the proxies of the node until ctx ends.
func (a *Agent) serveProxy(ctx context.Context) error {
	return a.proxies.Serve(ctx, filepath.Join(filepath.Dir(a.opts.SocketPath), ProxySocket))
}
