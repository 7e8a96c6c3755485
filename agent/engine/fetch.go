package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ha/agent/api"
	"ha/agent/stream"
	"ha/xtra"
)

// prepareBound is how long a copy may take to be prepared: to apply what was written
// while it was made.
const prepareBound = time.Hour

// Copy says what Fetch has got.
type Copy struct {
	Position
	Server string // version of the donor's server
	Bytes  int64  // of the stream
}

// Fetch has the agent at addr (host:port) copy its server's data and makes a data
// directory of them in dir, which does not exist but whose parent does, and belongs to
// who shall own the data. The copy is prepared: a server can be started on it. After
// an error, or if ctx ends, dir is not there and no process runs.
// Nothing is synced: see xtra.Place.Take. client is wire.StreamClient's. throttle is in
// bytes of data per second; 0: none.
func (e Engine) Fetch(ctx context.Context, client *http.Client, addr, dir string, throttle int64, progress func(api.BackupProgress)) (Copy, error) {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return Copy{}, err
	}
	c, err := e.fetch(ctx, client, addr, dir, throttle, progress)
	if err != nil {
		return Copy{}, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

func (e Engine) fetch(ctx context.Context, client *http.Client, addr, dir string, throttle int64, progress func(api.BackupProgress)) (Copy, error) {
	end, err := e.receive(ctx, client, addr, dir, throttle, progress)
	if err != nil {
		return Copy{}, err
	}
	if why := e.Check(ctx, end.Server); why != "" {
		return Copy{}, api.Refused("HA-NO-ENGINE", "the copy cannot be prepared here: %s", why)
	}
	progress(api.BackupProgress{Phase: api.PhaseVerifying}) // the donor has done its part
	said := &tail{}
	ctx, cancel := context.WithTimeoutCause(ctx, prepareBound, fmt.Errorf("not done after %s", prepareBound))
	defer cancel()
	// Its options are in the copy itself. Unlike those of backups they are nobody's secret.
	if err := run(ctx, tool(ctx, said, e.backup, "--no-defaults", "--prepare", "--target-dir="+dir), said); err != nil {
		return Copy{}, fmt.Errorf("prepare the copy: %w", err)
	}
	if !said.done() {
		return Copy{}, fmt.Errorf("prepare the copy: %s ended without saying that all went well: %s", e.backup, said.last(3))
	}
	if err := e.checkPrepared(dir); err != nil {
		return Copy{}, err
	}
	c := Copy{Server: end.Server, Bytes: end.Bytes}
	if c.Position, err = e.Position(dir); err != nil {
		return Copy{}, err
	}
	if err := removeLogs(dir, c.File); err != nil {
		return Copy{}, err
	}
	return c, own(dir)
}

// removeLogs removes the donor's binary logs, of which xtrabackup takes the last one
// along: the position says what is in them, and their index may name files by whole
// paths, which on the recipient are those of its old data.
func removeLogs(dir, last string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		number, of := strings.CutPrefix(e.Name(), strings.TrimSuffix(last, filepath.Ext(last))+".")
		if of && (number == "index" || strings.Trim(number, "0123456789") == "") {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// receive unpacks the stream into dir and compares it with what the donor has sent.
func (e Engine) receive(ctx context.Context, client *http.Client, addr, dir string, throttle int64, progress func(api.BackupProgress)) (api.CopyEnd, error) {
	var end api.CopyEnd
	in, err := stream.Open(ctx, client, addr, api.PathCopy, api.CopyRequest{Engine: e.Name, Throttle: throttle})
	if err != nil {
		return end, err
	}
	defer in.Close()
	// It is killed, not just cut off, where the stream fails: it knows no end but its
	// input's.
	unpacking, kill := context.WithCancel(in.Context())
	defer kill()
	said := &tail{}
	cmd := tool(unpacking, said, e.unpack, "-x", "-C", dir, fmt.Sprintf("--parallel=%d", threads))
	from, to, err := os.Pipe()
	if err != nil {
		return end, err
	}
	defer to.Close()
	cmd.Stdin = from
	err = cmd.Start()
	_ = from.Close()
	if err != nil {
		return end, err
	}
	at := api.BackupProgress{}
	note := func(kind string, text []byte) error {
		switch kind {
		case stream.NoteError:
			return stream.Failure(text)
		case stream.NoteProgress:
			err := json.Unmarshal(text, &at)
			progress(at)
			return err
		}
		return nil
	}
	got, text, err := xtra.ReceiveBlocks(in.Context(), in, to, note, nil)
	if errors.Is(err, xtra.ErrCutShort) {
		err = api.Failed("the donor is gone: %w", err)
	}
	if err == nil {
		if err = json.Unmarshal(text, &end); err == nil && got != (xtra.Sum{Bytes: end.Bytes, SHA256: end.SHA256}) {
			err = api.Failed("what came is not what the donor sent: %d bytes, %d were sent", got.Bytes, end.Bytes)
		}
	}
	// What has not come may still come, and a tool that has died may be why; it is
	// told the end only if that is one.
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		kill()
	}
	_ = to.Close()
	if died := ended(unpacking, cmd, said, cmd.Wait()); err == nil || errors.Is(err, syscall.EPIPE) {
		err = errors.Join(died, err)
	}
	if err != nil {
		return end, in.Because(err)
	}
	return end, nil
}

// own gives all that is in dir to who has its parent: the server's user, where the
// agent is root.
func own(dir string) error {
	parent, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return err
	}
	owner := parent.Sys().(*syscall.Stat_t)
	if int(owner.Uid) == os.Geteuid() {
		return nil
	}
	return xtra.Chown(dir, int(owner.Uid), int(owner.Gid))
}
