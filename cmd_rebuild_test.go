package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"ha/agent/api"
)

// rebuilding serves a cluster in which a rebuild is as st says.
func rebuilding(t *testing.T, asked *atomic.Int32, st func() api.RebuildStatus) string {
	t.Helper()
	return serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == api.PathPing:
			api.WriteJSON(w, api.Ping{Node: "c", Name: "n3"})
		case r.Method == http.MethodGet:
			api.WriteJSON(w, api.Rebuilds{Rebuilds: []api.RebuildStatus{st()}, LastSeen: 9})
		default:
			var in api.AskRebuild
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
				t.Error(err)
			}
			if in.From == "n9" {
				api.WriteError(w, api.Busy("n9 is being copied from"))
				return
			}
			b := api.RebuildBegun{Node: "c", Name: "n3", Donor: "n2", Seen: 7, Choice: []string{"from n2: why"}, Plan: []string{"one", "two"}}
			if !in.DryRun {
				asked.Add(1)
				if b.Index = 9; in.Node != "c" || r.URL.Path == api.PathRebuild && (in.Seen != 7 || in.Throttle != 50_000_000) {
					t.Errorf("asked for %+v", in)
				}
			}
			api.WriteJSON(w, b)
		}
	})
}

func TestRebuild(t *testing.T) {
	st := api.RebuildStatus{Node: "c", Name: "n3", Donor: "n2", Wish: 9, Phase: "copy", Bytes: 1 << 30, Total: 4 << 30, Rate: 100 << 20, ETA: 30720}
	with := func(f func(*api.RebuildStatus)) api.RebuildStatus { s := st; f(&s); return s }
	done := with(func(s *api.RebuildStatus) { s.Phase, s.Done, s.OK, s.TookMS = "done", true, true, 1200 })
	for _, tt := range []struct {
		args  string
		st    api.RebuildStatus
		code  int
		asked int32
		texts []string
	}{
		{"rebuild --from best --throttle 50MB", done, 0, 1, []string{"n3 was rebuilt from n2 (1.2 s)\n"}},
		{"rebuild --from best --throttle 50MB -o json", done, 0, 1, []string{`"took_ms": 1200`}},
		{"rebuild --from best --dry-run", done, 0, 0, []string{"of n3 from n2", " 2. two", "from n2: why", "Nothing was changed"}},
		{"rebuild --from best --throttle 50MB --detach", st, 0, 1, []string{"has begun", "ha rebuild status --node n3 --follow"}},
		{"rebuild --from best --throttle 50MB --wait 300ms", st, 5, 1, []string{"copying from n2: 1024 MB of 4096 MB (25 %), 100 MB/s, 31s to go", "not done after 300ms"}},
		{"rebuild --from best --throttle 50MB", with(func(s *api.RebuildStatus) { s.Done, s.Canceled = true, true }), 1, 1, []string{"was canceled"}},
		{"rebuild --from best --throttle 50MB", with(func(s *api.RebuildStatus) { s.Done, s.Err = true, "disk" }), 1, 1, []string{"failed: disk"}},
		{"rebuild --from best --throttle 50MB", with(func(s *api.RebuildStatus) { s.Wish = 12 }), 5, 1, []string{"is forgotten"}},
		{"rebuild --from n9", st, 9, 0, []string{"n9 is being copied from"}},
		{"rebuild", st, 2, 0, []string{"--from is missing"}},
		{"rebuild --from best --throttle fast", st, 2, 0, []string{`"fast" is not a rate`}},
		{"rebuild --from best --engine tar", st, 2, 0, []string{"Engines: clone, xtrabackup, mariadb-backup"}},
		{"rebuild n3 --from best", st, 2, 0, []string{`unknown command "n3"`}},
		{"rebuild status", st, 0, 0, []string{"n3", "copying from n2: 1024 MB"}},
		{"rebuild status --node n7", st, 0, 0, []string{"no rebuild is under way"}},
		{"rebuild status --follow", with(func(s *api.RebuildStatus) { s.Done, s.OK = true, true }), 0, 0, []string{"n3 was rebuilt"}},
		{"rebuild cancel", st, 0, 1, []string{"the rebuild of n3 is canceled"}},
	} {
		quiet(t)
		var asked atomic.Int32
		var out bytes.Buffer
		args := append([]string{"ha"}, strings.Fields(tt.args)...)
		if strings.Contains(tt.args, "cancel") {
			args = append(args, "--node", "c")
		}
		code := run(t.Context(), append(args, "--addr", rebuilding(t, &asked, func() api.RebuildStatus { return tt.st })), &out, &out)
		if code != tt.code || asked.Load() != tt.asked {
			t.Errorf("%s: exit code %d, asked %d times\n%s", tt.args, code, asked.Load(), out.String())
		}
		for _, text := range tt.texts {
			if !strings.Contains(out.String(), text) {
				t.Errorf("%s: no %q in\n%s", tt.args, text, out.String())
			}
		}
	}
}

// Who presses Ctrl-C is told how to come back.
func TestRebuildInterrupted(t *testing.T) {
	quiet(t)
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	addr := rebuilding(t, &asked, func() api.RebuildStatus {
		cancel()
		return api.RebuildStatus{Node: "c", Name: "n3", Wish: 9}
	})
	var out bytes.Buffer
	code := run(ctx, []string{"ha", "rebuild", "--from", "best", "--throttle", "50MB", "--addr", addr}, &out, &out)
	if code != api.ExitInterrupted || !strings.Contains(out.String(), "goes on in the agents") || !strings.Contains(out.String(), "ha rebuild cancel --node n3") {
		t.Errorf("exit code %d: %s", code, out.String())
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "50MB": 50_000_000, "50 MiB/s": 50 << 20, "1.5g": 1_500_000_000, "2000000": 2_000_000, "x": -1, "1kb": -1, "-5MB": -1} {
		got, err := parseRate(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
