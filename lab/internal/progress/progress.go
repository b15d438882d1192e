// SPDX-License-Identifier: Apache-2.0

// Package progress tells a person what is going on, one line per step.
package progress

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Printer prints steps with the time since it was made.
type Printer struct {
	out   io.Writer
	tty   bool
	start time.Time
	mu    sync.Mutex
}

// New makes a printer. Marks and colours appear only on a terminal, and
// colours only without NO_COLOR.
func New(out *os.File) *Printer {
	return &Printer{out: out, tty: terminal(out), start: time.Now()}
}

func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Colour says whether what is written to f may have colours.
func Colour(f *os.File) bool { return terminal(f) && os.Getenv("NO_COLOR") == "" }

// Elapsed is the time since the printer was made.
func (p *Printer) Elapsed() time.Duration { return time.Since(p.start) }

// Step says that something is done.
func (p *Printer) Step(format string, args ...any) {
	p.line("✓", "32", format, args...)
}

// Note says something on the way.
func (p *Printer) Note(format string, args ...any) {
	p.line("•", "2", format, args...)
}

// Warn says something that a person should look at.
func (p *Printer) Warn(format string, args ...any) {
	p.line("!", "33", format, args...)
}

func (p *Printer) line(mark, colour, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	secs := p.Elapsed().Seconds()
	switch {
	case !p.tty:
		fmt.Fprintf(p.out, "%5.1fs %s\n", secs, text)
	case os.Getenv("NO_COLOR") != "":
		fmt.Fprintf(p.out, " %s %s (%.1f s)\n", mark, text, secs)
	default:
		fmt.Fprintf(p.out, " \x1b[%sm%s\x1b[0m %s \x1b[2m(%.1f s)\x1b[0m\n", colour, mark, text, secs)
	}
}
