package agent

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/node"
	"ha/mysqlctl"
	"ha/raftfsm"
)

// Which tools there are is known where mysqld does not start, too: from its binary.
func TestEnginesOfAHost(t *testing.T) {
	dir := t.TempDir()
	for name, says := range map[string]string{
		"mysqld":         "mysqld  Ver 9.7.4 for Linux on x86_64 (MySQL Community Server - GPL)",
		"xtrabackup":     "xtrabackup version 9.7.4-1 based on MySQL server 9.7.4 Linux (x86_64) (revision id: 0)",
		"xbstream":       "",
		"mariadb-backup": "mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu (x86_64)",
		"mbstream":       "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho '"+says+"'\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	a := &Agent{cfg: Config{MySQL: MySQLConfig{Mysqld: filepath.Join(dir, "mysqld"), DataDir: dir, Options: []string{"--innodb-undo-directory=/elsewhere"}}}}
	var c node.Config
	a.hookEngines(&c)
	if got := c.Engines(); got != nil || c.NoCopy() != "" {
		t.Errorf("before anybody has looked: %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { a.keepEngines(ctx); close(done) }()
	for deadline := time.Now().Add(20 * time.Second); c.Engines() == nil && time.Now().Before(deadline); {
		_ = pause(ctx, 10*time.Millisecond)
	}
	cancel()
	<-done
	if no := c.NoCopy(); !strings.Contains(no, "innodb_undo_directory=/elsewhere") {
		t.Errorf("undo logs elsewhere: %q", no)
	}
	got := c.Engines()
	if len(got) != 2 || got[0] != (raftfsm.EngineReport{Engine: raftfsm.EngineXtraBackup}) ||
		got[1].Engine != raftfsm.EngineMariaDBBackup || !strings.Contains(got[1].No, "copies MariaDB, and the server is MySQL 9.7.4") {
		t.Errorf("%+v", got)
	}
}

// What the replicated state calls an engine and what copies with one go by the same
// names; and an agent that cannot give a copy says so.
func TestEnginesThatCannot(t *testing.T) {
	a := &Agent{fsm: newFSM()}
	for _, e := range raftfsm.Engines {
		o := raftfsm.Order{Copying: raftfsm.Copying{Engine: e}, Source: &raftfsm.Source{Node: "n9"}}
		want := "the donor is no member"
		if !e.Streams() {
			want = "there is no engine"
		}
		if err := a.streamCopy(t.Context(), o, t.TempDir(), func(mysqlctl.CloneProgress) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", e, err)
		}
	}
	w := httptest.NewRecorder()
	a.giveCopy(w, httptest.NewRequest(http.MethodPost, api.PathCopy, nil))
	if err := api.ReadError(w.Body.Bytes()); err == nil || err.Code != api.ExitBusy {
		t.Errorf("without a mysqld: %v", err)
	}
}
