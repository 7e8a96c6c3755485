package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/klauspost/compress/zstd"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

// cluster stands for the replicated state: what can no longer be lost.
type cluster struct {
	mu      sync.Mutex
	safe    gtid.Set
	changed chan struct{}
}

func (c *cluster) Safe() (gtid.Set, bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.safe, true, c.changed
}

func (c *cluster) commit(set gtid.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.safe, c.changed = set, make(chan struct{})
}

// rig is a server, its archive and what the cluster says.
type rig struct {
	t *testing.T
	*mysqltest.Node
	cluster
	dir  string
	ctx  context.Context
	stop func()
	a    *Archive
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, Node: mysqltest.Primary(t, 0, mysqltest.Start(t, 1)...), dir: filepath.Join(t.TempDir(), "archive")}
	r.ctx, r.changed, r.stop = mysqltest.Ctx(t, 3*time.Minute), make(chan struct{}), func() {}
	t.Cleanup(func() { r.stop() })
	r.run()
	r.problem(CodeFailed) // there is no such directory
	r.stop()
	if err := os.Mkdir(r.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	return r
}

// run starts the archive; r.stop ends it.
func (r *rig) run() {
	r.a = New(Config{Dir: r.dir, Source: r.Node.Server, Safe: r.Safe, Size: 4 << 10, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan struct{})
	go func() { r.a.Run(ctx); close(done) }()
	r.stop = func() { cancel(); <-done; r.stop = func() {} }
}

// files are those of a directory whose names begin so.
func (r *rig) files(dir string) []string {
	r.t.Helper()
	var out []string
	found, _ := filepath.Glob(filepath.Join(dir, "binlog.0*"))
	for _, name := range found {
		if !strings.HasSuffix(name, ".part") {
			out = append(out, name)
		}
	}
	return out
}

// holds is what PrepareReplay finds in the archive, which sees to gaps and sums.
func (r *rig) holds() (gtid.Set, error) {
	c := mysqltest.Config(r.t, r.t.TempDir())
	if err := os.MkdirAll(c.DataDir, 0o750); err != nil {
		return gtid.Set{}, err
	}
	found, err := mysqlctl.New(c, nil).PrepareReplay(r.ctx, gtid.Set{}, r.files(r.dir), mysqlctl.Until{})
	return found.Set, err
}

// archived waits until the archive holds a set, no more and no less.
func (r *rig) archived(want gtid.Set) {
	r.t.Helper()
	var got gtid.Set
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		// A file may be gone under its name while it is being compressed.
		if got, err = r.holds(); err == nil && got.Equal(want) {
			return
		}
	}
	r.t.Fatalf("the archive holds %s, not %s; %v; %+v", got, want, err, r.a.Status())
}

// problem waits until the archive says why it does not go on.
func (r *rig) problem(code string) {
	r.t.Helper()
	mysqltest.Eventually(r.t, 20*time.Second, code, func() bool { return r.a.Status().Code == code })
}

// transactions are the bytes of all transactions in logs.
func (r *rig) transactions(names []string) []byte {
	r.t.Helper()
	var out []byte
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err == nil && strings.HasSuffix(name, mysqlctl.PackedSuffix) {
			z, _ := zstd.NewReader(nil)
			text, err = z.DecodeAll(text, nil)
			z.Close()
		}
		if err != nil {
			r.t.Fatal(err)
		}
		for text = text[4:]; len(text) > 0; {
			size := binary.LittleEndian.Uint32(text[9:])
			switch replication.EventType(text[4]) {
			case replication.FORMAT_DESCRIPTION_EVENT, replication.PREVIOUS_GTIDS_EVENT, replication.ROTATE_EVENT, replication.STOP_EVENT:
			default:
				out = append(out, text[:size]...)
			}
			text = text[size:]
		}
	}
	return out
}

// replayed has a copy of the server apply the archive: it numbers transactions anew in
// each log of its own, and the applier goes by that where it runs several at once.
func (r *rig) replayed(c mysqlctl.Config, have gtid.Set, files []string) {
	r.t.Helper()
	c.ServerID = mysqlctl.ReplayServerID
	c.Options = append(c.Options, "--skip-networking", "--relay-log=relay-bin", "--relay-log-index=relay-bin.index")
	n := mysqltest.Wrap(r.t, c)
	found, err := n.PrepareReplay(r.ctx, have, files, mysqlctl.Until{})
	if err == nil {
		err = n.Start(r.ctx)
	}
	if err == nil {
		err = n.Replay(r.ctx, found.Set, 10*time.Second, func(uint64) {})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	const query = "SELECT * FROM app.t ORDER BY id"
	if got, want := n.Rows(query), r.Rows(query); got != want || want == "" {
		r.t.Errorf("replayed are %q, not %q", got, want)
	}
	if log, err := os.ReadFile(c.LogFile); err != nil || strings.Contains(string(log), "inconsistent") {
		r.t.Errorf("the applier is told inconsistent things: %v\n%s", err, log)
	}
}

func (r *rig) insert(rows int) {
	r.t.Helper()
	for i := range rows {
		r.Exec(fmt.Sprintf("INSERT INTO app.t (v) VALUES ('row %d')", i))
	}
}

func (r *rig) executed() gtid.Set { return r.MustStatus().Executed }

// What the cluster can no longer lose is archived byte for byte, without gaps and
// without anything twice, whatever ends the dump or the agent; the rest is held back.
func TestArchive(t *testing.T) {
	r := newRig(t)
	r.Exec("SET gtid_next = 'AUTOMATIC:tagged'", "INSERT INTO app.t (v) VALUES ('tagged')", "SET gtid_next = 'AUTOMATIC'")
	backup := r.executed()
	copied := mysqltest.Config(t, t.TempDir())
	if err := r.CloneLocal(r.ctx, copied.DataDir, nil); err != nil {
		t.Fatal(err)
	}
	r.insert(30)
	safe := r.executed()
	r.commit(safe)
	r.Exec("SET GLOBAL binlog_transaction_compression = ON", "SET SESSION binlog_transaction_compression = ON",
		"CREATE TABLE app.other (id INT PRIMARY KEY)", "FLUSH BINARY LOGS")
	r.insert(30)
	r.run()
	r.archived(safe)
	if st := r.MustStatus(); len(st.DumpThreads) != 0 || st.Source.Clients != 0 {
		t.Errorf("it is taken for a replica: %+v", st)
	}

	r.commit(r.executed())
	r.archived(r.executed())
	if err := r.KillOwnSessions(r.ctx); err != nil { // as an agent's start does
		t.Fatal(err)
	}
	r.insert(10)
	r.commit(r.executed())
	r.archived(r.executed())

	mysqltest.Eventually(t, 10*time.Second, "word of what it has", func() bool { return r.a.Status().Has.Equal(r.executed()) })

	r.stop()
	files := r.files(r.dir)
	last := files[len(files)-1]
	if err := os.WriteFile(filepath.Join(r.dir, "binlog.999999.part"), []byte("\xfebin\x01\x02"), 0o600); err != nil { // the next, barely begun
		t.Fatal(err)
	}
	st, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, st.Size()-7); err != nil {
		t.Fatal(err)
	}
	r.insert(10)
	r.commit(r.executed())
	r.run()
	r.archived(r.executed())
	r.stop()

	files = r.files(r.dir)
	packed := 0
	for _, name := range files {
		if strings.HasSuffix(name, mysqlctl.PackedSuffix) {
			packed++
		}
	}
	if packed == 0 || packed != len(files)-1 {
		t.Errorf("%d of %d files are compressed", packed, len(files))
	}
	if want, got := r.transactions(r.files(r.Config.DataDir)), r.transactions(files); !bytes.Equal(got, want) {
		t.Errorf("%d bytes of transactions are archived, not the server's %d", len(got), len(want))
	}
	out, err := exec.Command(filepath.Join(filepath.Dir(r.Config.Mysqld), "mysqlbinlog"), "--no-defaults", "--verify-binlog-checksum", files[len(files)-1]).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("GTID_NEXT")) {
		t.Errorf("mysqlbinlog: %v\n%s", err, out)
	}
	r.replayed(copied, backup, files)
	if at := r.a.Status().UpTo; time.Since(at) > 5*time.Minute || time.Since(at) < -time.Minute {
		t.Errorf("archived up to %s", at)
	}
}

// Where the server's history does not go on from the archive it is left as it is.
func TestArchiveStands(t *testing.T) {
	r := newRig(t)
	r.insert(5)
	r.commit(r.executed())
	r.run()
	r.archived(r.executed())
	r.stop()
	have := r.executed()

	other := New(Config{Dir: r.dir})
	release, err := lock(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	var p *problem
	if err := other.archive(r.ctx); !errors.As(err, &p) || p.code != CodeFailed {
		t.Errorf("two agents with one archive: %v", err)
	}
	release()

	r.insert(5)
	r.Exec("FLUSH BINARY LOGS")
	logs := r.files(r.Config.DataDir)
	r.Exec("PURGE BINARY LOGS TO '" + filepath.Base(logs[len(logs)-1]) + "'")
	r.commit(r.executed())
	r.run()
	r.problem(CodeGap)
	if has := r.a.Status().Has; !has.Equal(have) {
		t.Errorf("it has %s, and says %s", have, has)
	}
	r.stop()
	r.archived(have)

	r.Exec("RESET BINARY LOGS AND GTIDS")
	r.insert(1)
	r.commit(r.executed())
	r.run()
	r.problem(CodeDiverged)
	r.commit(have) // it has only to catch up
	r.problem("")
	r.stop()
	r.archived(have)

	// A new archive begins behind what the server has no more.
	r.dir = t.TempDir()
	r.Exec("FLUSH BINARY LOGS")
	logs = r.files(r.Config.DataDir)
	r.Exec("PURGE BINARY LOGS TO '" + filepath.Base(logs[len(logs)-1]) + "'")
	purged := r.executed()
	r.insert(1)
	r.commit(r.executed())
	r.run()
	mysqltest.Eventually(t, 20*time.Second, "a new archive", func() bool { return len(r.files(r.dir)) == 1 })
	if _, err := r.holds(); !errors.Is(err, mysqlctl.ErrLogGap) || !strings.Contains(err.Error(), purged.String()) {
		t.Errorf("it does not say what it begins behind: %v", err)
	}
}
