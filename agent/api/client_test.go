package api_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/wire"
)

func identity(t *testing.T, secret string) *wire.Identity {
	t.Helper()
	id, err := wire.NewIdentity(wire.DeriveKeys(secret), "test")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// agentAt serves h as an agent would and returns its address.
func agentAt(t *testing.T, secret string, h http.HandlerFunc) string {
	t.Helper()
	srv, err := wire.Listen(t.Context(), "127.0.0.1:0", identity(t, secret), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(h)
	t.Cleanup(func() { srv.Close() })
	return srv.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// deafPort accepts connections and says nothing, like a frozen agent.
func deafPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func answers(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { api.WriteJSON(w, api.Ping{Name: name}) }
}

func TestClientGet(t *testing.T) {
	good := agentAt(t, "one", answers("n1"))
	stranger := agentAt(t, "two", answers("n9"))
	refuses := agentAt(t, "one", func(w http.ResponseWriter, _ *http.Request) {
		api.WriteError(w, api.Refused("HA-ERRANT", "n2 is errant").WithHint("rebuild it"))
	})
	closed, deaf := closedPort(t), deafPort(t)
	for _, tt := range []struct {
		name  string
		addrs []string
		code  int
		text  []string
	}{
		{"the first answers", []string{good}, 0, nil},
		{"the first is down", []string{closed, good}, 0, nil},
		{"the first is frozen", []string{deaf, good}, 0, nil},
		{"the first is another cluster's", []string{stranger, good}, 0, nil},
		{"the first refuses, another answers", []string{refuses, good}, 0, nil},
		{"all are down", []string{closed, deaf}, api.ExitUnreachable, []string{closed + ": nobody listens", deaf + ": no answer in time"}},
		{"only another cluster answers", []string{closed, stranger}, api.ExitRefused, []string{stranger + ": it has another secret"}},
		{"an agent refuses", []string{closed, refuses}, api.ExitRefused, []string{"n2 is errant"}},
		{"nobody is known", nil, api.ExitUnreachable, []string{"no address"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := api.Client{HTTP: wire.HTTPClient(identity(t, "one")), Addrs: tt.addrs}
			ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			var p api.Ping
			from, err := c.Get(ctx, api.PathPing, &p)
			if api.ExitCode(err) != tt.code {
				t.Fatalf("%v: exit code %d, want %d", err, api.ExitCode(err), tt.code)
			}
			if tt.code == 0 && (p.Name != "n1" || from != good) {
				t.Errorf("%+v from %s", p, from)
			}
			for _, want := range tt.text {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestErrorCrossesTheWire(t *testing.T) {
	addr := agentAt(t, "one", func(w http.ResponseWriter, _ *http.Request) {
		api.WriteError(w, api.NoQuorum("no majority").WithHint("start n2"))
	})
	c := api.Client{HTTP: wire.HTTPClient(identity(t, "one")), Addrs: []string{addr}}
	_, err := c.Get(t.Context(), api.PathStatus, &struct{}{})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.ExitNoQuorum || e.Hint != "start n2" || e.Error() != "no majority" {
		t.Errorf("%#v", err)
	}
}

func TestExitCode(t *testing.T) {
	cause := errors.New("disk full")
	err := api.Busy("rebuild of n2: %w", cause)
	if !errors.Is(err, cause) || err.Error() != "rebuild of n2: disk full" || api.ExitCode(err) != api.ExitBusy {
		t.Errorf("%v %d", err, api.ExitCode(err))
	}
	if api.ExitCode(nil) != 0 || api.ExitCode(cause) != 1 {
		t.Error("codes of plain errors")
	}
	if wrapped := errors.Join(cause, api.Refused("HA-ERRANT", "no")); api.ExitCode(wrapped) != api.ExitRefused {
		t.Error("the code of a wrapped error is lost")
	}
}
