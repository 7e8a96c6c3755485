// Package stream is how an agent sends copies of data to a client or to another
// agent: the answer to a request over the agents' own TLS, in the form of package
// xtra, throttled, and ended where the other side takes or sends nothing.
package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"ha/agent/api"
	"ha/agent/wire"
)

const (
	// Stall ends a stream whose other side takes, or sends, nothing for that long.
	Stall = time.Minute
	// Beat is how often a donor says how it goes.
	Beat = 500 * time.Millisecond
)

// Kinds of notes in a stream, beside its end.
const (
	NoteProgress = "progress" // api.BackupProgress
	NoteError    = "error"    // api.Error
)

// ErrorNote is an error as the other side is told it.
func ErrorNote(err error) api.Error {
	e := api.Error{Code: api.ExitCode(err), Msg: err.Error()}
	var own *api.Error
	if errors.As(err, &own) {
		e.Word, e.Hint = own.Word, own.Hint
	}
	return e
}

// Failure is the error of a NoteError.
func Failure(text []byte) error {
	if own := api.ReadError(text); own != nil {
		return own
	}
	return api.Failed("the donor failed: %s", text)
}

// Inlet is a stream that comes in. Close ends it.
type Inlet struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	alarm  *time.Timer
}

// Open asks the agent at addr (host:port) for a stream: req, as JSON, is posted to
// path. What the agent refuses comes as its own error. client is wire.StreamClient's.
func Open(ctx context.Context, client *http.Client, addr, path string, req any) (*Inlet, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	i := &Inlet{}
	i.ctx, i.cancel = context.WithCancelCause(ctx)
	i.alarm = time.AfterFunc(Stall, func() { i.cancel(fmt.Errorf("nothing came from %s for %s", addr, Stall)) })
	err = i.open(client, addr, path, body)
	if err != nil {
		err = i.Because(err)
		i.Close()
		return nil, err
	}
	return i, nil
}

func (i *Inlet) open(client *http.Client, addr, path string, body []byte) error {
	post, err := http.NewRequestWithContext(i.ctx, http.MethodPost, "https://"+addr+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(post)
	if err != nil {
		return api.Unreachable("ask %s for a copy: %w", addr, wire.ClassifyDialError(err))
	}
	i.body = resp.Body
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if own := api.ReadError(text); own != nil {
		return own
	}
	return api.Failed("%s: %s: %s", addr, resp.Status, bytes.TrimSpace(text))
}

// Context ends when the stream is given up: nothing came for too long, or it was
// closed.
func (i *Inlet) Context() context.Context { return i.ctx }

// Read reads; all that comes puts the alarm off.
func (i *Inlet) Read(p []byte) (int, error) {
	n, err := i.body.Read(p)
	if n > 0 {
		i.alarm.Reset(Stall)
	}
	return n, err
}

// Close ends the stream; the donor notices.
func (i *Inlet) Close() {
	i.alarm.Stop()
	i.cancel(nil)
	if i.body != nil {
		_ = i.body.Close()
	}
}

// Because adds to an error why the stream was given up, if it was.
func (i *Inlet) Because(err error) error {
	if cause := context.Cause(i.ctx); cause != nil {
		return fmt.Errorf("%w (%w)", cause, err)
	}
	return err
}
