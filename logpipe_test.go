package main

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"ha/agent"
)

// A log that nobody reads holds up nobody; what was dropped is told once somebody
// reads again, and the end waits for the rest.
func TestLogPipe(t *testing.T) {
	r, w := io.Pipe()
	log, flush := newLogger(w, agent.LogConfig{Level: "info"})
	for range logRoom + 100 { // nobody reads
		log.Info("hello")
	}
	lines := bufio.NewScanner(r)
	kept, told := 0, false
	for !told && lines.Scan() {
		told = strings.Contains(lines.Text(), "lines were dropped")
		if !told {
			kept++
		}
	}
	if kept < logRoom || kept > logRoom+1 { // one was on its way
		t.Errorf("%d lines were kept", kept)
	}
	log.Info("the last one")
	go func() { flush(); w.Close() }()
	if !lines.Scan() || !strings.Contains(lines.Text(), "the last one") || lines.Scan() {
		t.Errorf("it ends with %q", lines.Text())
	}
	log.Info("too late") // and nobody is hurt
}
