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

// operated serves a cluster in which outcomes are what out says.
func operated(t *testing.T, asked *atomic.Int32, out func() api.Outcome) string {
	t.Helper()
	return serve(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			api.WriteJSON(w, out())
			return
		}
		var in api.Ask
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		b := api.Begun{Target: "b", Name: "n2", Primary: "n1", Epoch: 4, Seen: 7, Plan: []string{"one", "two"}}
		if !in.DryRun {
			asked.Add(1)
			if b.Index = 9; in.Seen != 7 || in.Node != "b" {
				t.Errorf("asked for %+v", in)
			}
		}
		if in.AllowLoss {
			b.Loss = "rows"
		}
		api.WriteJSON(w, b)
	})
}

func TestOperate(t *testing.T) {
	done := api.Outcome{Done: true, OK: true, Text: "n2 is the primary of epoch 5", Primary: "n2", Epoch: 5, TookMS: 120}
	for _, tt := range []struct {
		args  string
		out   api.Outcome
		code  int
		asked int32
		texts []string
	}{
		{"switchover", done, 0, 1, []string{"n2 is the primary of epoch 5 (was n1; 0.12 s)\n"}},
		{"switchover --dry-run", done, 0, 0, []string{"from n1 to n2", " 2. two", "Nothing was changed"}},
		{"switchover -o json", done, 0, 1, []string{`"took_ms": 120`}},
		{"switchover", api.Outcome{Done: true, Exit: 9, Code: "HA-BLOCKED", Text: "session 7", Next: "end it"}, 9, 1, []string{"ha: session 7 [HA-BLOCKED]\n    end it\n"}},
		{"switchover --timeout 300ms", api.Outcome{Doing: "preparing"}, 5, 1, []string{"preparing", "the outcome is unknown", "`ha events`"}},
		{"failover --allow-data-loss --yes", done, 0, 1, []string{"MAY BE LOST: rows"}},
	} {
		quiet(t)
		var asked atomic.Int32
		var out bytes.Buffer
		args := append([]string{"ha"}, strings.Fields(tt.args)...)
		code := run(t.Context(), append(args, "--addr", operated(t, &asked, func() api.Outcome { return tt.out })), &out, &out)
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

// Who presses Ctrl-C is told that the operation goes on.
func TestOperateInterrupted(t *testing.T) {
	quiet(t)
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	addr := operated(t, &asked, func() api.Outcome { cancel(); return api.Outcome{} })
	var out bytes.Buffer
	if code := run(ctx, []string{"ha", "switchover", "--addr", addr}, &out, &out); code != api.ExitInterrupted || !strings.Contains(out.String(), "goes on in the agents") {
		t.Errorf("exit code %d: %s", code, out.String())
	}
}
