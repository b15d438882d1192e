// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stentor-net/stentor/lab/internal/probe"
)

// loadReport is what a run of requests came to.
type loadReport struct {
	Requests  int            `json:"requests"`
	Fresh     int            `json:"fresh"`    // of them on a connection of their own
	Seconds   float64        `json:"seconds"`  // from the first to the last
	Failures  map[string]int `json:"failures"` // by outcome, as probe names them
	Examples  []string       `json:"examples,omitempty"`
	ServedBy  map[string]int `json:"servedBy"` // by the server's name
	LongestMS float64        `json:"longestMs"`
}

// loader sends requests one after the other from each of its workers.
type loader struct {
	url      string
	timeout  time.Duration
	started  atomic.Int64
	mu       sync.Mutex
	report   loadReport
	interval time.Duration
}

// runLoad makes HTTP requests until there are enough, and ctx has ended if that is
// wanted. Half of the workers use a connection for each request, half keep theirs.
func runLoad(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	rate := fs.Int("rate", 1000, "requests per second")
	least := fs.Int("requests", 10000, "at least so many")
	until := fs.Bool("until", false, "go on until interrupted")
	workers := fs.Int("workers", 16, "requests at the same time")
	timeout := fs.Duration("timeout", 5*time.Second, "for one request")
	if err := fs.Parse(args); err != nil || fs.NArg() != 1 || *workers < 2 || *rate < 1 {
		return exitCode{2, errors.Join(err, errors.New("want one URL, a rate above 0 and at least two workers"))}
	}
	l := &loader{url: fs.Arg(0), timeout: *timeout, interval: time.Second * time.Duration(*workers) / time.Duration(*rate)}
	l.report.Failures, l.report.ServedBy = map[string]int{}, map[string]int{}
	more := func() bool {
		if ctx.Err() == nil && *until {
			return true
		}
		return l.started.Load() < int64(*least)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for i := range *workers {
		wg.Go(func() { l.work(i%2 == 0, more) })
	}
	wg.Wait()
	l.report.Seconds = time.Since(start).Seconds()
	return json.NewEncoder(os.Stdout).Encode(l.report)
}

func (l *loader) work(fresh bool, more func() bool) {
	d := &net.Dialer{}
	d.SetMultipathTCP(false)
	client := http.Client{Timeout: l.timeout, Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: fresh}}
	for next := time.Now(); more(); {
		l.started.Add(1)
		begin := time.Now()
		by, err := get(&client, l.url)
		l.count(fresh, by, time.Since(begin), err)
		next = next.Add(l.interval)
		time.Sleep(time.Until(next))
	}
}

var errStatus = errors.New("status")

func get(c *http.Client, url string) (by string, err error) {
	r, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return "", err
	}
	if r.StatusCode != http.StatusOK {
		return "", errStatus
	}
	return r.Header.Get("X-Served-By"), nil
}

func (l *loader) count(fresh bool, by string, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Requests++
	if fresh {
		l.report.Fresh++
	}
	l.report.LongestMS = max(l.report.LongestMS, float64(took.Microseconds())/1000)
	switch {
	case err == nil:
		l.report.ServedBy[by]++
		return
	case errors.Is(err, errStatus):
		l.report.Failures[probe.Status]++
	default:
		l.report.Failures[probe.Outcome(err)]++
	}
	if len(l.report.Examples) < 5 {
		l.report.Examples = append(l.report.Examples, time.Now().UTC().Format("15:04:05.000 ")+err.Error())
	}
}
