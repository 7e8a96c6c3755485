package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ha/agent/api"
	"ha/agent/stream"
	"ha/xtra"
)

// silence ends a tool that writes nothing for that long, while the recipient would
// take it. DDL on the donor may hold it up for a while, and so may a commit that waits
// for its acknowledgement: the tool asks the server for a position that is none's.
const silence = 2 * time.Minute

// Login is how a tool reaches the server that it copies.
type Login struct {
	DataDir, Socket string
	User, Password  string
}

// Donor gives copies of one server. Its fields are set before its methods are called.
type Donor struct {
	Login Login
	Node  string // name
	// Dir is the tool's own while it runs: private, and not there otherwise.
	Dir string
	// Version asks the server for its version.
	Version func(ctx context.Context) (string, error)
	// Size, if set, estimates what a copy takes, in bytes.
	Size func() (uint64, error)
	// Busy, if set, says what forbids a copy now; "" if nothing does.
	Busy func() string
	Log  *slog.Logger

	turn     sync.Mutex
	patience time.Duration // tests shorten it; 0: silence
}

// Tidy removes what an earlier run of the agent left. Its tool died with it.
func (d *Donor) Tidy() {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.remove()
}

func (d *Donor) remove() {
	if err := os.RemoveAll(d.Dir); err != nil {
		d.Log.Warn("directory of the copying tool not removed", "dir", d.Dir, "err", err)
	}
}

// ServeHTTP makes a copy and answers with the stream. The request is an
// api.CopyRequest.
func (d *Donor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req api.CopyRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&req); err != nil {
		api.WriteError(w, api.Usage("read request: %w", err))
		return
	}
	if !d.turn.TryLock() {
		api.WriteError(w, api.Busy("%s is giving another copy", d.Node).WithHint("wait for it, or take another donor with --from"))
		return
	}
	defer d.turn.Unlock()
	e, version, err := d.check(r.Context(), req.Engine)
	if err != nil {
		api.WriteError(w, err)
		return
	}
	s, err := xtra.NewSender(stream.NewOutlet(r.Context(), w, 0))
	if err != nil {
		api.WriteError(w, err)
		return
	}
	defer s.Abort()
	d.Log.Info("copy begins", "engine", e.Name)
	began := time.Now()
	sum, err := d.send(r.Context(), e, s, req.Throttle)
	if err == nil {
		err = s.End(api.CopyEnd{Bytes: sum.Bytes, SHA256: sum.SHA256, Server: version})
	}
	if err != nil {
		d.Log.Warn("copy failed", "engine", e.Name, "err", err)
		_ = s.Note(stream.NoteError, stream.ErrorNote(err)) // if anybody is there
		return
	}
	d.Log.Info("copy done", "engine", e.Name, "took", time.Since(began).Round(time.Millisecond), "bytes", sum.Bytes)
}

// check refuses what cannot work, before anything is begun.
func (d *Donor) check(ctx context.Context, name string) (Engine, string, error) {
	e, err := Find(name)
	if err != nil {
		return e, "", err
	}
	if d.Busy != nil {
		if why := d.Busy(); why != "" {
			return e, "", api.Busy("%s cannot give a copy now: %s", d.Node, why).WithHint("take another donor with --from")
		}
	}
	version, err := d.Version(ctx)
	if err != nil {
		return e, "", api.Failed("version of %s's server: %w", d.Node, err)
	}
	if why := e.Check(ctx, version); why != "" {
		return e, "", api.Refused("HA-NO-ENGINE", "%s cannot give a copy: %s", d.Node, why).
			WithHint("install what is missing there, or take another donor with --from")
	}
	return e, version, nil
}

// send runs the tool and sends what it writes. Nothing of the tool is left when it
// returns.
func (d *Donor) send(ctx context.Context, e Engine, s *xtra.Sender, throttle int64) (xtra.Sum, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.remove()
	defer d.remove()
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		return xtra.Sum{}, err
	}
	options := filepath.Join(d.Dir, "options.cnf")
	if err := optionFile(options, d.Login); err != nil {
		return xtra.Sum{}, err
	}
	at := api.BackupProgress{Phase: "copy"}
	if d.Size != nil {
		if n, err := d.Size(); err == nil {
			at.Total = int64(n)
		}
	}
	parallel := threads
	if throttle > 0 {
		parallel = 1 // reading ahead on many files is what the throttle is to spare the disk
	}
	said := &tail{}
	cmd := tool(ctx, said, e.backup, "--defaults-file="+options, "--backup", "--stream=xbstream",
		"--target-dir="+d.Dir, "--tmpdir="+d.Dir, fmt.Sprintf("--parallel=%d", parallel))
	blocks := make(chan []byte)
	cmd.Stdout = writeFunc(func(p []byte) (int, error) {
		select {
		case blocks <- bytes.Clone(p):
			return len(p), nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	})
	done := make(chan error, 1)
	go func() { done <- run(ctx, cmd, said) }()
	tick := time.NewTicker(stream.Beat)
	defer tick.Stop()
	var sum xtra.Digest
	// The pace is that of the tool, as CLONE's: on the network there may be far less,
	// and it is the donor's disk that is spared.
	pace := stream.Pace{Limit: throttle}
	patience := cmp.Or(d.patience, silence)
	moved := time.Now()
	lost := s.Note(stream.NoteProgress, at)
	for {
		if lost != nil {
			cancel(fmt.Errorf("the recipient is gone: %w", lost))
		}
		select {
		case p := <-blocks:
			_ = pace.Wait(ctx, len(p)) // if it ends, so does the tool
			_, _ = sum.Write(p)
			lost = s.Block(p)
			at.Done += int64(len(p))
			moved = time.Now()
		case <-tick.C:
			if lost = s.Note(stream.NoteProgress, at); lost == nil && time.Since(moved) > patience {
				cancel(fmt.Errorf("%s has written nothing for %s", e.backup, patience))
			}
		case err := <-done:
			if err == nil && !said.done() {
				err = fmt.Errorf("%s ended without saying that all went well: %s", e.backup, said.last(3))
			}
			d.remove() // before anybody hears that it is done
			return sum.Sum(), err
		}
	}
}

type writeFunc func(p []byte) (int, error)

func (f writeFunc) Write(p []byte) (int, error) { return f(p) }
