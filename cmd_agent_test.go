package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/locate"
)

// An agent that is asked to stop ends with 0; one that finds its port taken
// with 1.
func TestAgentStops(t *testing.T) {
	dir := quiet(t)
	argv := func(name string) []string {
		return []string{"ha", "agent", "--witness", "--name", name, "--listen", "127.0.49.1",
			"--data-dir", filepath.Join(dir, name), "--runtime-dir", filepath.Join(dir, name)}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log lockedBuffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, argv("w1"), &log, &log) }()

	client, err := locate.Cluster{Addrs: []string{"127.0.49.1:8801"}}.Client()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var p api.Ping
		if _, err = client.Get(t.Context(), api.PathPing, &p); err == nil && p.Name == "w1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer: %v\n%s", err, log.String())
		}
	}
	var talk bytes.Buffer
	if code := run(t.Context(), argv("w2"), &talk, &talk); code != api.ExitFailed || !strings.Contains(talk.String(), "in use") {
		t.Errorf("port taken: exit code %d: %s", code, talk.String())
	}
	cancel()
	select {
	case code := <-ended:
		if code != 0 {
			t.Errorf("stopped with exit code %d\n%s", code, log.String())
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("does not stop\n%s", log.String())
	}
}

// lockedBuffer may be written while it is read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
