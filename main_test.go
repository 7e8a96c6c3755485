package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ha/agent/api"
	"ha/agent/wire"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// quiet gives the test its own places and no environment that changes answers.
func quiet(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for k, v := range map[string]string{
		"XDG_STATE_HOME": dir + "/state", "XDG_CONFIG_HOME": dir + "/config",
		"HA_CONFIG": "", "HA_MYSQLD": "", "PATH": "/nonexistent", "NO_COLOR": "1",
	} {
		t.Setenv(k, v)
	}
	return dir
}

// Golden sessions: each file in testdata/cli holds lines "$ ha ..." with what is
// printed, stderr lines marked with "! ", and the exit code. -rewrite renews them.
func TestSessions(t *testing.T) {
	files, err := filepath.Glob("testdata/cli/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no sessions", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			dir := quiet(t)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv("DIR", dir)
			var got strings.Builder
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(line, "#") {
					got.WriteString(line)
				}
				if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
					got.WriteString(session(t, dir, command))
				}
			}
			compare(t, file, string(text), got.String())
		})
	}
}

var secret = regexp.MustCompile(`(?m)^[A-Za-z0-9_-]{43}$`)

func session(t *testing.T, dir, command string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	argv := strings.Fields(os.ExpandEnv(command))
	code := run(t.Context(), argv, &stdout, &stderr)
	var b strings.Builder
	fmt.Fprintf(&b, "\n$ %s\n", command)
	b.WriteString(secret.ReplaceAllString(stdout.String(), "<secret>"))
	for line := range strings.Lines(stderr.String()) {
		b.WriteString("! " + line)
	}
	if code != 0 {
		fmt.Fprintf(&b, "=> %d\n", code)
	}
	return strings.ReplaceAll(b.String(), dir, "$DIR")
}

func compare(t *testing.T, file, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s differs (go test . -rewrite renews it); got:\n%s", file, got)
}

// Golden pictures of statuses: testdata/status/NAME.json drawn as NAME.txt.
func TestRenderStatus(t *testing.T) {
	files, err := filepath.Glob("testdata/status/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no statuses", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			var out, talk bytes.Buffer
			quiet(t)
			want := statusCode(t, file)
			for _, format := range []string{"table", "wide"} {
				code := run(t.Context(), []string{"ha", "status", "--addr", serveFile(t, file), "-o", format}, &out, &talk)
				fmt.Fprintf(&out, "=> %d\n\n", code)
				if code != want {
					t.Errorf("exit code %d, want %d: %s", code, want, talk.String())
				}
			}
			golden := strings.TrimSuffix(file, ".json") + ".txt"
			text, err := os.ReadFile(golden)
			if err != nil && !*rewrite {
				t.Fatal(err)
			}
			compare(t, golden, string(text), out.String())
		})
	}
}

// statusCode is the exit code that the health in the file stands for.
func statusCode(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for health, code := range map[string]int{"ok": 0, "degraded": 7, "no_primary": 8, "no_quorum": 4} {
		if bytes.Contains(text, []byte(`"health": "`+health+`"`)) {
			return code
		}
	}
	t.Fatalf("%s has no health", file)
	return 0
}

// serveFile answers every request with a file, as an agent without a secret.
func serveFile(t *testing.T, file string) string {
	t.Helper()
	return serve(t, "", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
}

func serve(t *testing.T, secret string, h http.HandlerFunc) string {
	t.Helper()
	id, err := wire.NewIdentity(wire.DeriveKeys(secret), "test")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := wire.Listen(t.Context(), "127.0.0.1:0", id, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(h)
	t.Cleanup(func() { srv.Close() })
	return srv.Addr().String()
}

func TestStatusJSON(t *testing.T) {
	quiet(t)
	var out, talk bytes.Buffer
	if code := run(t.Context(), []string{"ha", "status", "-o", "json", "--addr", serveFile(t, "testdata/status/ok.json")}, &out, &talk); code != 0 {
		t.Fatalf("exit code %d: %s", code, talk.String())
	}
	for _, key := range []string{"cluster", "epoch", "health", "primary", "coordinator", "acks", "ack_set", "nodes", "name", "address",
		"mysql", "role", "raft", "mysqld", "read_only", "gtid_executed", "lag_seconds", "acker", "issues"} {
		if !strings.Contains(out.String(), `"`+key+`":`) {
			t.Errorf("no key %s", key)
		}
	}
}

func TestStatusOfAnotherCluster(t *testing.T) {
	quiet(t)
	addr := serve(t, "0123456789abcdef", func(http.ResponseWriter, *http.Request) {})
	var out, talk bytes.Buffer
	code := run(t.Context(), []string{"ha", "status", "--addr", addr}, &out, &talk)
	if code != api.ExitRefused || !strings.Contains(talk.String(), "HA-WRONG-SECRET") {
		t.Errorf("exit code %d: %s", code, talk.String())
	}
}

func TestInterrupted(t *testing.T) {
	quiet(t)
	ctx, cancel := context.WithCancel(t.Context())
	addr := serve(t, "", func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	var out, talk bytes.Buffer
	if code := run(ctx, []string{"ha", "status", "--addr", addr}, &out, &talk); code != api.ExitInterrupted {
		t.Errorf("exit code %d: %s", code, talk.String())
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{api.Usage("x"), 2},
		{fmt.Errorf("join: %w", api.Refused("HA-NAME", "x")), 3},
		{fmt.Errorf("dial: %w", wire.ErrWrongSecret), 3},
		{api.NoQuorum("x"), 4},
		{context.DeadlineExceeded, 5},
		{os.ErrDeadlineExceeded, 5},
		{api.Unreachable("x"), 6},
		{healthCode(7), 7},
		{api.Busy("x"), 9},
		{context.Canceled, 130},
	} {
		if got := exitCode(t.Context(), tt.err); got != tt.code {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.code)
		}
	}
}
