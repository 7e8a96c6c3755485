package main

import (
	"io"
	"slices"
	"sync"
	"time"
)

const (
	logRoom  = 1000            // lines that may wait for whoever reads the log
	logFlush = 2 * time.Second // how long the end waits for them
)

// logPipe writes lines to a file without waiting for it: where nobody reads the log
// (a full pipe, a journal that hangs) an agent has to go on. What there is no room
// for is dropped and counted.
type logPipe struct {
	lines chan []byte
	done  chan struct{} // closed when all is written

	mu   sync.Mutex
	end  bool
	lost int
}

// newLogPipe writes to w. tell is called with how many lines were dropped, once the
// rest is written.
func newLogPipe(w io.Writer, tell func(lost int)) *logPipe {
	p := &logPipe{lines: make(chan []byte, logRoom), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for line := range p.lines {
			_, _ = w.Write(line)
			if len(p.lines) > 0 {
				continue
			}
			p.mu.Lock()
			lost := p.lost
			p.lost = 0
			p.mu.Unlock()
			if lost > 0 {
				tell(lost)
			}
		}
	}()
	return p
}

// Write takes a line. It never fails and never waits.
func (p *logPipe) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end {
		return len(line), nil
	}
	select {
	case p.lines <- slices.Clone(line):
	default:
		p.lost++
	}
	return len(line), nil
}

// Close waits a moment until all is written.
func (p *logPipe) Close() {
	p.mu.Lock()
	p.end = true
	close(p.lines)
	p.mu.Unlock()
	select {
	case <-p.done:
	case <-time.After(logFlush):
	}
}
