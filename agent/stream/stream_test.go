package stream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ha/agent/api"
)

// taker is a client that takes what is written, or after a while nothing any more.
type taker struct {
	http.ResponseWriter
	deadline time.Time
	stuck    bool
}

func (w *taker) SetWriteDeadline(t time.Time) error { w.deadline = t; return nil }

func (w *taker) Write(p []byte) (int, error) {
	if w.stuck {
		time.Sleep(time.Until(w.deadline))
		return 0, context.DeadlineExceeded
	}
	return len(p), nil
}

func TestOutletIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := NewOutlet(t.Context(), &taker{ResponseWriter: httptest.NewRecorder()}, 10<<20)
		block := make([]byte, 1<<20)
		send := func(n int) time.Duration {
			began := time.Now()
			for range n {
				if _, err := o.Write(block); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(began)
		}
		if took := send(51).Round(time.Millisecond); took != 5*time.Second { // the last one does not wait for itself
			t.Errorf("50 MB at 10 MB/s took %s", took)
		}
		// A minute in which nothing was to be sent is not made up for.
		time.Sleep(time.Minute)
		if took := send(51).Round(100 * time.Millisecond); took < 4900*time.Millisecond || took > 5*time.Second {
			t.Errorf("and then %s", took)
		}
		free := NewOutlet(t.Context(), &taker{ResponseWriter: httptest.NewRecorder()}, 0)
		began := time.Now()
		if _, err := free.Write(block); err != nil || time.Since(began) != 0 {
			t.Errorf("without a limit it took %s: %v", time.Since(began), err)
		}
	})
}

func TestOutletEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := NewOutlet(t.Context(), &taker{ResponseWriter: httptest.NewRecorder(), stuck: true}, 0)
		began := time.Now()
		if _, err := stuck.Write([]byte("x")); err == nil || time.Since(began) != Stall {
			t.Errorf("a client that takes nothing was waited for %s: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		slow := NewOutlet(ctx, &taker{ResponseWriter: httptest.NewRecorder()}, 1<<20)
		if _, err := slow.Write(make([]byte, 1<<30)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		if _, err := slow.Write([]byte("x")); !errors.Is(err, context.Canceled) || time.Since(began) != time.Second {
			t.Errorf("ended after %s: %v", time.Since(began), err)
		}
	})
}

// answers is what the other agent says.
type answers func(r *http.Request) (*http.Response, error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func open(t *testing.T, f answers) (*Inlet, error) {
	t.Helper()
	return Open(t.Context(), &http.Client{Transport: f}, "n2:1", "/copy", map[string]int{"throttle": 7})
}

func said(status int, body io.Reader) answers {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(body)}, nil
	}
}

func TestInlet(t *testing.T) {
	in, err := open(t, func(r *http.Request) (*http.Response, error) {
		asked, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.String() != "https://n2:1/copy" || string(asked) != `{"throttle":7}` {
			t.Errorf("%s %s %s", r.Method, r.URL, asked)
		}
		return said(http.StatusOK, strings.NewReader("all of it"))(r)
	})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(in); err != nil || string(text) != "all of it" {
		t.Errorf("%q, %v", text, err)
	}
	in.Close()
	if in.Context().Err() == nil {
		t.Error("it goes on")
	}
}

// What the other agent refuses comes as its own error, with its exit code.
func TestInletIsRefused(t *testing.T) {
	own, err := json.Marshal(ErrorNote(api.Refused("HA-NO-ENGINE", "no tool").WithHint("install it")))
	if err != nil {
		t.Fatal(err)
	}
	gone := answers(func(*http.Request) (*http.Response, error) { return nil, errors.New("no route") })
	for name, c := range map[string]struct {
		answer answers
		code   int
		text   string
	}{
		"refused":       {said(http.StatusConflict, strings.NewReader(string(own))), api.ExitRefused, "no tool"},
		"another story": {said(http.StatusNotFound, strings.NewReader("404 page not found\n")), api.ExitFailed, "404 page not found"},
		"gone":          {gone, api.ExitCode(api.Unreachable("x")), "no route"},
	} {
		_, err := open(t, c.answer)
		if api.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: exit code %d: %v", name, api.ExitCode(err), err)
		}
	}
	if err := Failure(own); api.ExitCode(err) != api.ExitRefused {
		t.Errorf("as a note: %v", err)
	}
	if err := Failure([]byte("what?")); !strings.Contains(err.Error(), "the donor failed: what?") {
		t.Errorf("as words: %v", err)
	}
}

// A donor of which nothing comes is given up, before it answers and after; one that
// is slow is not.
func TestInletGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := open(t, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		if err == nil || !strings.Contains(err.Error(), "nothing came from n2:1 for 1m0s") || time.Since(began) != Stall {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		r, w := io.Pipe()
		in, err := open(t, said(http.StatusOK, r))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		context.AfterFunc(in.Context(), func() { w.CloseWithError(in.Context().Err()) })
		go func() {
			for range 5 {
				time.Sleep(Stall - time.Second)
				_, _ = w.Write([]byte("x"))
			}
		}()
		began = time.Now()
		text, err := io.ReadAll(in)
		if want := 5*(Stall-time.Second) + Stall; string(text) != "xxxxx" || time.Since(began) != want {
			t.Errorf("%q after %s, not %s", text, time.Since(began), want)
		}
		if err = in.Because(err); !strings.Contains(err.Error(), "nothing came from") {
			t.Errorf("%v", err)
		}
	})
}
