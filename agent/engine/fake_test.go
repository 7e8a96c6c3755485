package engine

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/stream"
	"ha/agent/wire"
	"ha/xtra"
)

// fakeTool behaves as $FAKE says; else it does what a good one does.
const fakeTool = `#!/bin/sh
case "$*" in
*--version*) echo "x based on MySQL server 9.7.4 Linux" ;;
*--backup*)
	case "$*" in *'cr#et'*) exit 9 ;; esac
	case "$*" in *"--parallel=${PARALLEL:-4}") ;; *) exit 7 ;; esac
	grep -q 'password="se\\\\cr#et"' "${1#--defaults-file=}" || exit 8
	case $FAKE in
	fails) echo half; echo "no space" >&2; exit 1 ;;
	silent-end) echo whole; exit 0 ;;
	hangs) echo whole; exec sleep 60 ;;
	big) head -c 4194304 /dev/zero ;;
	esac
	echo whole
	echo "completed OK!" >&2
	;;
*--prepare*)
	for last; do :; done
	dir=${last#--target-dir=}
	[ "$FAKE" != prepare-hangs ] || exec sleep 60
	[ "$FAKE" != prepare-fails ] || { echo "corrupt page" >&2; exit 1; }
	echo "backup_type = ${STATE:-full-prepared}" >"$dir/xtrabackup_checkpoints"
	for f in binlog.000001 binlog.index binlog.txt; do echo "/d/$f" >"$dir/$f"; done
	[ "$FAKE" = no-position ] || printf 'binlog.000001\t4\t3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5\n' >"$dir/xtrabackup_binlog_info"
	[ "$FAKE" = silent-prepare ] || echo "completed OK!" >&2
	;;
*)
	[ "$FAKE" != unpack-fails ] || { echo "wrong chunk" >&2; exit 1; }
	[ "$4" = --parallel=4 ] || exit 7
	cat >"$3/all"
	;;
esac
`

// fakes puts fake tools first on the path.
func fakes(t *testing.T, how string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{XtraBackup.backup, XtraBackup.unpack} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(fakeTool), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("FAKE", how)
}

// serve answers on a port like an agent's, with its TLS.
func serve(t *testing.T, h http.Handler) (addr string, client *http.Client) {
	t.Helper()
	keys := wire.DeriveKeys(wire.NewSecret())
	id, err := wire.NewIdentity(keys, "donor")
	if err != nil {
		t.Fatal(err)
	}
	s, err := wire.Listen(t.Context(), "127.0.0.1:0", id, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+api.PathCopy, h)
	served := make(chan error, 1)
	go func() { served <- s.Serve(mux) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	own, err := wire.NewIdentity(keys, "recipient")
	if err != nil {
		t.Fatal(err)
	}
	return s.Addr().String(), wire.StreamClient(own)
}

func fakeDonor(t *testing.T, server string) *Donor {
	return &Donor{Login: Login{DataDir: "/d", Socket: "/s", User: "ha", Password: `se\cr#et`}, Node: "n1", Dir: filepath.Join(t.TempDir(), "dir"),
		Version: func(context.Context) (string, error) { return server, nil }, Log: slog.New(slog.DiscardHandler)}
}

func TestWhatToolsDoWrong(t *testing.T) {
	for how, c := range map[string]struct{ server, want string }{
		"":               {"9.7.4", ""},
		"fails":          {"9.7.4", "no space"},
		"silent-end":     {"9.7.4", "ended without saying that all went well"},
		"unpack-fails":   {"9.7.4", "wrong chunk"},
		"prepare-fails":  {"9.7.4", "corrupt page"},
		"silent-prepare": {"9.7.4", "ended without saying that all went well"},
		"no-position":    {"9.7.4", "no xtrabackup_binlog_info"},
		"other-server":   {"8.4.0", "n1 cannot give a copy: xtrabackup is of MySQL 9.7.4"},
		"half-prepared":  {"9.7.4", "full-backuped, not full-prepared"},
	} {
		t.Run(how, func(t *testing.T) {
			fakes(t, how)
			if how == "half-prepared" {
				t.Setenv("STATE", "full-backuped")
			}
			d := fakeDonor(t, c.server)
			addr, client := serve(t, d)
			dir := filepath.Join(t.TempDir(), "data")
			got, err := XtraBackup.Fetch(t.Context(), client, addr, dir, 0, func(api.BackupProgress) {})
			if c.want == "" {
				all, _ := os.ReadFile(filepath.Join(dir, "all"))
				if logs, _ := filepath.Glob(filepath.Join(dir, "binlog*")); len(logs) != 1 {
					t.Errorf("binary logs: %v", logs)
				}
				if err != nil || string(all) != "whole\n" || got.Bytes != 6 || !strings.HasSuffix(got.GTID, ":1-5") || got.Server != c.server {
					t.Errorf("%+v, %q, %v", got, all, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if _, statErr := os.Lstat(dir); (statErr == nil) != (err == nil) {
				t.Errorf("directory: %v", statErr)
			}
			if _, err := os.Lstat(d.Dir); err == nil {
				t.Error("the donor's directory is still there")
			}
		})
	}
}

func TestToolIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	addr, client := serve(t, fakeDonor(t, "9.7.4"))
	_, err := XtraBackup.Fetch(t.Context(), client, addr, filepath.Join(t.TempDir(), "data"), 0, func(api.BackupProgress) {})
	if api.ExitCode(err) != api.ExitRefused || !strings.Contains(err.Error(), "n1 cannot give a copy: xbstream is not installed") {
		t.Errorf("exit code %d: %v", api.ExitCode(err), err)
	}
}

// A donor that says it sent something else than what came.
func TestSumsDiffer(t *testing.T) {
	fakes(t, "")
	end := api.CopyEnd{Bytes: 4, Server: "9.7.4"}
	addr, client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := xtra.NewSender(stream.NewOutlet(r.Context(), w, 0))
		if err == nil {
			err = s.Block([]byte("data"))
		}
		if err == nil {
			err = s.End(end)
		}
		if err != nil {
			t.Error(err)
		}
	}))
	dir := filepath.Join(t.TempDir(), "data")
	var whole xtra.Digest
	_, _ = whole.Write([]byte("data"))
	for sum, ok := range map[string]bool{whole.Sum().SHA256: true, strings.Repeat("0", 64): false, "": false} {
		end.SHA256 = sum
		_, err := XtraBackup.Fetch(t.Context(), client, addr, dir, 0, func(api.BackupProgress) {})
		if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "not what the donor sent") {
			t.Errorf("sum %q: %v", sum, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// Who waits for a tool that hangs can go away, and a tool that writes nothing is ended:
// nothing is left on either side.
func TestToolsThatHang(t *testing.T) {
	for name, c := range map[string]struct {
		how, want string
		patience  time.Duration
		cancelAt  func(at api.BackupProgress) bool
	}{
		"donor's, canceled":   {"hangs", context.Canceled.Error(), 0, func(at api.BackupProgress) bool { return at.Done > 0 }},
		"donor's, silent":     {"hangs", "xtrabackup has written nothing for 1s", time.Second, func(api.BackupProgress) bool { return false }},
		"preparing, canceled": {"prepare-hangs", context.Canceled.Error(), 0, func(at api.BackupProgress) bool { return at.Phase == api.PhaseVerifying }},
	} {
		t.Run(name, func(t *testing.T) {
			fakes(t, c.how)
			d := fakeDonor(t, "9.7.4")
			d.patience = c.patience
			addr, client := serve(t, d)
			dir := filepath.Join(t.TempDir(), "data")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := XtraBackup.Fetch(ctx, client, addr, dir, 0, func(at api.BackupProgress) {
				if c.cancelAt(at) {
					cancel()
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			nothingLeft(t, d, xtra.Place{DataDir: dir})
			if _, err := os.Lstat(dir); err == nil {
				t.Error("half a copy was left")
			}
		})
	}
}

// The throttle is for data, however well they can be compressed, and no other reader
// goes on meanwhile.
func TestThrottle(t *testing.T) {
	fakes(t, "big")
	t.Setenv("PARALLEL", "1")
	addr, client := serve(t, fakeDonor(t, "9.7.4"))
	began := time.Now()
	got, err := XtraBackup.Fetch(t.Context(), client, addr, filepath.Join(t.TempDir(), "data"), 2<<20, func(api.BackupProgress) {})
	if took := time.Since(began); err != nil || got.Bytes < 4<<20 || took < 1900*time.Millisecond {
		t.Errorf("%d bytes in %s: %v", got.Bytes, took, err)
	}
}

// A donor gives one copy at a time, and none while it may not; what was left of an
// earlier one is removed.
func TestDonorIsBusy(t *testing.T) {
	fakes(t, "hangs")
	d := fakeDonor(t, "9.7.4")
	if err := os.MkdirAll(filepath.Join(d.Dir, "left"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.Tidy()
	if _, err := os.Lstat(d.Dir); err == nil {
		t.Error("leftovers were not removed")
	}
	addr, client := serve(t, d)
	first, end := context.WithTimeout(t.Context(), 30*time.Second)
	defer end()
	begun, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		_, err := XtraBackup.Fetch(first, client, addr, filepath.Join(t.TempDir(), "one"), 0, func(api.BackupProgress) { once.Do(func() { close(begun) }) })
		ended <- err
	}()
	select {
	case <-begun:
	case err := <-ended:
		t.Fatal(err)
	}
	two := filepath.Join(t.TempDir(), "two")
	refused := func(want string) {
		t.Helper()
		_, err := XtraBackup.Fetch(t.Context(), client, addr, two, 0, func(api.BackupProgress) {})
		if api.ExitCode(err) != api.ExitBusy || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
	refused("n1 is giving another copy")
	end()
	<-ended
	within(t, 10*time.Second, "the donor is free", func() bool {
		if !d.turn.TryLock() {
			return false
		}
		d.turn.Unlock()
		return true
	})
	d.Busy = func() string { return "it is being rebuilt" }
	refused("n1 cannot give a copy now: it is being rebuilt")
	if _, err := (Engine{Name: "tar"}).Fetch(t.Context(), client, addr, two, 0, nil); err == nil || !strings.Contains(err.Error(), `no engine "tar"`) {
		t.Errorf("%v", err)
	}
}
