package mysqlctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"ha/mysqlctl/gtid"
)

const (
	cutPrefix = ".ha_cut." // of copies; mysqld takes no file of this name for a log
	cutCopies = 2          // that are kept
	// tornGTID is more than a GTID event has: what is longer and torn is no event.
	tornGTID = 4096
)

// Cut says what CutTail removed. Nothing if Removed is empty.
type Cut struct {
	Removed      gtid.Set `json:"removed"`
	Transactions int      `json:"transactions"`
	// Torn: after them stood a part of one more, which went with them.
	Torn  bool   `json:"torn"`
	File  string `json:"file"`  // the binary log
	Bytes int64  `json:"bytes"` // that it lost
	// Copy is a binary log file of its own, beside File, with the head of File and
	// the bytes that were removed: mysqlbinlog reads it, and appended to File
	// without the head they are what was there. The newest two are kept.
	Copy string `json:"copy"`
}

// CutTail removes from the end of the last binary log the transactions that keep
// lacks, before mysqld is started: it then rolls them back, for recovery commits what
// is in the log and rolls back what is not. The server gets a new server_uuid, since
// it will give the removed GTIDs out again, for other content. keep is what the
// settled primary has executed, read now; that nobody was told OK for what it lacks
// is for the caller to know, no file says it.
//
// No error and nothing removed: keep has all that is there. ErrNoCut: keep lacks
// something which a cut would not undo, or it cannot be seen whether it would;
// nothing was touched, and a start shows the divergence in its executed set. Any
// other error: it was not finished, and may be tried again. ErrRunning while mysqld
// runs.
//
// It cuts only if
//   - the last log was never closed, nor recovered: its flag "in use" stands, and no
//     Rotate or Stop event is in it. Otherwise the engine has committed it all.
//   - what keep lacks is in the last log. A rotation waits for prepared commits, so
//     what waits never spans files: all in earlier files is committed.
//     Previous_gtids of the last log say what was logged before it. What came with a
//     clone or by gtid_purged is not in them; that is in the executed set at the
//     last start ([Server.OfflinePosition] uses it too), which keep must have as well,
//     for it is committed also where it stands in the last log.
//   - keep lacks all of the rest, from the first that it lacks.
//   - mysqld rolls back each of them: it ends in an XID event or XA PREPARE, or is a
//     statement that is logged with an XID (atomic DDL), or XA COMMIT, which leaves
//     the transaction prepared. A compressed one is unpacked to see.
//   - everything from there on can be read, to the end of the file or into a last
//     transaction that was written in part. That one went to no replica: dump threads
//     read what is synced.
//
// The flag "in use" is never written: with it gone mysqld would take the
// transactions for committed, without their rows.
//
// A power loss at any point leaves a state from which it can be run again, or mysqld
// started: first the copy is made durable, then the uuid removed (a new uuid with an
// uncut log is a server that has diverged, no more), and only then the log cut.
//
// It reads the last log, and writes what it removes; the size of the data does not
// matter.
func (s *Server) CutTail(ctx context.Context, keep gtid.Set) (Cut, error) {
	for !s.starting.TryLock() { // no Start meanwhile
		if !sleep(ctx, time.Millisecond) {
			return Cut{}, fmt.Errorf("cut binary log: %w", ctx.Err())
		}
	}
	defer s.starting.Unlock()
	cut, err := s.cutTail(ctx, keep)
	if err != nil {
		return Cut{}, fmt.Errorf("cut binary log: %w", err)
	}
	return cut, nil
}

func (s *Server) cutTail(ctx context.Context, keep gtid.Set) (Cut, error) {
	if s.Alive() || s.findRunning() != 0 || s.dataLocked() {
		return Cut{}, ErrRunning
	}
	if keep.IsEmpty() {
		return Cut{}, fmt.Errorf("%w: the set to keep is empty", ErrNoCut)
	}
	base, err := s.readBase()
	if err != nil {
		return Cut{}, noCut(err)
	}
	if lacking := base.Minus(keep); !lacking.IsEmpty() {
		return Cut{}, fmt.Errorf("%w: when ha last started the server it had executed %s already", ErrNoCut, lacking)
	}
	files, err := s.binlogFiles()
	if err != nil {
		return Cut{}, noCut(err)
	}
	// A file that was only just begun has no Previous_gtids yet: then the one before
	// it tells what there is, and has been closed.
	for i := len(files) - 1; i >= 0; i-- {
		t, err := readTail(ctx, files[i], keep)
		switch {
		case err != nil && ctx.Err() != nil:
			return Cut{}, ctx.Err()
		case err != nil:
			return Cut{}, noCut(fmt.Errorf("%s: %w", filepath.Base(files[i]), err))
		case !t.begun:
			continue
		case t.lacking.IsEmpty():
			return Cut{File: files[i]}, nil
		case t.refused != nil:
			return Cut{}, fmt.Errorf("%w: %s: %w: %s", ErrNoCut, filepath.Base(files[i]), t.refused, t.lacking)
		case i < len(files)-1:
			return Cut{}, fmt.Errorf("%w: %s, which is not the last, has %s", ErrNoCut, filepath.Base(files[i]), t.lacking)
		}
		return s.cut(files[i], t)
	}
	return Cut{}, fmt.Errorf("%w: no binary log", ErrNoCut)
}

// noCut: what cannot be read is not cut.
func noCut(err error) error {
	if !errors.Is(err, ErrUnreadable) {
		err = fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return fmt.Errorf("%w: %w", ErrNoCut, err)
}

// dataLocked reports whether a process has InnoDB's files open: one that cannot be
// seen otherwise, as it is in another pid namespace.
func (s *Server) dataLocked() bool {
	f, err := os.Open(filepath.Join(s.cfg.DataDir, "ibdata1"))
	if err != nil {
		return false
	}
	defer f.Close() // would drop our own locks on it: we have none
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock)
	return err == nil && lock.Type != unix.F_UNLCK
}

// tail is the end of a binary log file that keep lacks.
type tail struct {
	begun        bool
	lacking      gtid.Set
	transactions int
	torn         bool
	head         int64 // the end of Previous_gtids
	off, size    int64 // where it begins, and the size of the file
	refused      error // why it must not be cut off
}

// readTail looks for what keep lacks in a file. The error is about a file that cannot
// be read.
func readTail(ctx context.Context, name string, keep gtid.Set) (tail, error) {
	f, err := os.Open(name)
	if err != nil {
		return tail{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return tail{}, err
	}
	return findTail(ctx, f, st.Size(), keep)
}

func findTail(ctx context.Context, file io.ReaderAt, size int64, keep gtid.Set) (tail, error) {
	r := &binlogReader{file: file, size: size, parser: replication.NewBinlogParser()}
	r.parser.SetVerifyChecksum(true)
	t := tail{size: size}
	var lacking gtidCollector
	r.each = func(trx transaction) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if keep.Has(uuidText(trx.sid), trx.tag, trx.number) {
			if t.transactions > 0 && t.refused == nil {
				t.refused = fmt.Errorf("%s:%d stands behind them", uuidText(trx.sid), trx.number)
			}
			return nil
		}
		why, err := r.lasts(trx)
		if err != nil {
			return err
		}
		if why != "" && t.refused == nil {
			t.refused = fmt.Errorf("%s:%d %s", uuidText(trx.sid), trx.number, why)
		}
		if t.transactions == 0 {
			t.off = trx.off
		}
		t.transactions++
		lacking.add(trx.sid, trx.tag, trx.number, trx.number)
		return nil
	}
	if err := r.walk(); err != nil || !r.begun {
		return tail{}, err
	}
	if r.torn > 0 && !r.tornAtEnd() {
		return tail{}, fmt.Errorf("%w: what stands at %d is no transaction", ErrUnreadable, r.torn)
	}
	var err error
	if t.lacking, err = lacking.set(); err != nil {
		return tail{}, err
	}
	t.begun, t.head, t.torn = true, r.head, r.torn > 0
	earlier := r.previous.Minus(keep)
	t.lacking = t.lacking.Union(earlier)
	switch {
	case !r.inUse:
		t.refused = errors.New("it was closed, or recovered by a start: all in it is committed")
	case r.closed:
		t.refused = errors.New("it ends in a rotation or a shutdown: all in it is committed")
	case !earlier.IsEmpty():
		t.refused = errors.New("earlier logs have some: they are committed")
	case r.stray.size > 0:
		t.refused = fmt.Errorf("a %s at %d is in no transaction", r.stray.kind, r.stray.off)
	}
	return t, nil
}

// tornAtEnd reports whether the part that is no whole transaction looks like the
// beginning of one, and nothing is behind it.
func (r *binlogReader) tornAtEnd() bool {
	if r.size-r.torn < headerSize {
		return true
	}
	e, err := r.header(r.torn)
	if err != nil && !errors.Is(err, errTorn) {
		return false
	}
	if e.size == 0 {
		return true // zeros, says header
	}
	return (e.kind == replication.GTID_EVENT || e.kind == replication.GTID_TAGGED_LOG_EVENT) && e.size <= tornGTID
}

// lasts returns why mysqld does not roll back a transaction that is cut off; "" if it
// does.
func (r *binlogReader) lasts(trx transaction) (string, error) {
	last, err := r.verify(trx.off, trx.end)
	if err != nil {
		return "", err
	}
	switch last.kind {
	case replication.XID_EVENT, replication.XA_PREPARE_LOG_EVENT:
		return "", nil
	case replication.QUERY_EVENT:
		parsed, err := r.parse(last)
		if err != nil {
			return "", err
		}
		q, ok := parsed.(*replication.QueryEvent)
		switch {
		case !ok:
			return "", fmt.Errorf("%w: %T at %d", ErrUnreadable, parsed, last.off)
		case hasXID(q.StatusVars), strings.HasPrefix(string(q.Query), "XA COMMIT"), strings.HasPrefix(string(q.Query), "XA ROLLBACK"):
			return "", nil
		}
		return fmt.Sprintf("ends in %.10q without an XID: it is not rolled back", q.Query), nil
	case replication.TRANSACTION_PAYLOAD_EVENT:
		kind, err := r.lastPacked(last)
		if err != nil {
			return "", fmt.Errorf("%w: event at %d: %w", ErrUnreadable, last.off, err)
		}
		if kind != replication.XID_EVENT && kind != replication.XA_PREPARE_LOG_EVENT {
			return fmt.Sprintf("ends in a packed %s", kind), nil
		}
		return "", nil
	}
	return fmt.Sprintf("ends in a %s", last.kind), nil
}

// hasXID reports whether the status variables of a Query event say that it was
// logged with an XID, which is how mysqld marks atomic DDL. It does not know
// variables of later versions: what stands behind one is not seen.
func hasXID(vars []byte) bool {
	const flags2, sqlMode, catalog, autoIncrement, charset, timeZone, catalogNZ, lcTime, charsetDB, tableMap, dataWritten, invoker, dbNames, micros = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
	const explicitTimestamp, ddlXID, defaultCollation, requireKey, tableEncryption = 16, 17, 18, 19, 20
	size := map[byte]int{flags2: 4, sqlMode: 8, autoIncrement: 4, charset: 6, lcTime: 2, charsetDB: 2, tableMap: 8, dataWritten: 4, micros: 3,
		explicitTimestamp: 1, defaultCollation: 2, requireKey: 1, tableEncryption: 1}
	skip := func(n int) bool {
		if n > len(vars) {
			return false
		}
		vars = vars[n:]
		return true
	}
	text := func(end int) bool { return len(vars) > 0 && skip(1+int(vars[0])+end) }
	for len(vars) > 0 {
		code := vars[0]
		vars = vars[1:]
		var ok bool
		switch code {
		case ddlXID:
			return len(vars) >= 8
		case catalog:
			ok = text(1)
		case timeZone, catalogNZ:
			ok = text(0)
		case invoker:
			ok = text(0) // the user
			ok = ok && text(0)
		case dbNames:
			if ok = len(vars) > 0; !ok {
				break
			}
			n := int(vars[0])
			ok = skip(1)
			for ; ok && n < 254 && n > 0; n-- { // 254: too many to be named
				ok = skip(bytes.IndexByte(vars, 0) + 1)
			}
		default:
			n, known := size[code]
			ok = known && skip(n)
		}
		if !ok {
			return false
		}
	}
	return false
}

// lastPacked returns the type of the last event in a compressed transaction. It
// unpacks as it goes: the transaction may be of any size.
func (r *binlogReader) lastPacked(e event) (kind replication.EventType, err error) {
	end := e.end()
	if r.checksums {
		end -= checksumSize
	}
	body := io.NewSectionReader(r.file, e.off+headerSize, end-e.off-headerSize)
	packed := bufio.NewReaderSize(body, windowSize)
	compression := uint64(replication.NONE)
	for {
		field, err := packedInt(packed)
		if err != nil {
			return 0, err
		}
		if field == replication.OTW_PAYLOAD_HEADER_END_MARK {
			break
		}
		if _, err := packedInt(packed); err != nil { // its length
			return 0, err
		}
		value, err := packedInt(packed)
		if err != nil {
			return 0, err
		}
		if field == replication.OTW_PAYLOAD_COMPRESSION_TYPE_FIELD {
			compression = value
		}
	}
	events := packed
	switch compression {
	case replication.NONE:
	case replication.ZSTD:
		unpacked, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return 0, err
		}
		defer unpacked.Close()
		events = bufio.NewReaderSize(unpacked, windowSize)
	default:
		return 0, fmt.Errorf("compression of type %d", compression)
	}
	for {
		var h [headerSize]byte
		if _, err := io.ReadFull(events, h[:]); errors.Is(err, io.EOF) {
			return kind, nil
		} else if err != nil {
			return 0, err
		}
		kind = replication.EventType(h[4])
		size := int64(binary.LittleEndian.Uint32(h[sizeOffset:]))
		if size < headerSize {
			return 0, fmt.Errorf("an event of %d bytes in it", size)
		}
		if _, err := io.CopyN(io.Discard, events, size-headerSize); err != nil {
			return 0, err
		}
	}
}

// packedInt reads MySQL's length-encoded integer.
func packedInt(r io.ByteReader) (uint64, error) {
	first, err := r.ReadByte()
	if err != nil || first < 251 {
		return uint64(first), err
	}
	n := map[byte]int{252: 2, 253: 3, 254: 8}[first]
	if n == 0 {
		return 0, fmt.Errorf("length %d", first)
	}
	var value uint64
	for i := range n {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		value |= uint64(b) << (8 * i)
	}
	return value, nil
}

// cut does it. Each step is durable before the next begins.
func (s *Server) cut(name string, t tail) (Cut, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return Cut{}, err
	}
	defer f.Close()
	aside := filepath.Join(filepath.Dir(name), fmt.Sprintf("%s%s.%d", cutPrefix, filepath.Base(name), t.off))
	if err := s.copyAside(f, t, aside); err != nil {
		return Cut{}, fmt.Errorf("copy aside: %w", err)
	}
	if err := os.Remove(filepath.Join(s.cfg.DataDir, "auto.cnf")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Cut{}, err
	}
	if err := syncDir(s.cfg.DataDir); err != nil {
		return Cut{}, err
	}
	if err := f.Truncate(t.off); err != nil {
		return Cut{}, err
	}
	if err := f.Sync(); err != nil {
		return Cut{}, err
	}
	cut := Cut{Removed: t.lacking, Transactions: t.transactions, Torn: t.torn, File: name, Bytes: t.size - t.off, Copy: aside}
	s.log.Warn("binary log cut", "removed", cut.Removed, "transactions", cut.Transactions, "file", name, "copy", aside)
	pruneCopies(aside)
	return cut, nil
}

// copyAside writes the head of a binary log and its tail to a file of its own.
func (s *Server) copyAside(f *os.File, t tail, aside string) error {
	part := aside + ".new"
	to, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.MultiReader(io.NewSectionReader(f, 0, t.head), io.NewSectionReader(f, t.off, t.size-t.off)))
	if err == nil {
		err = to.Sync()
	}
	if err = errors.Join(err, to.Close()); err == nil {
		err = s.giveAway(part)
	}
	if err == nil {
		err = os.Rename(part, aside)
	}
	if err != nil {
		_ = os.Remove(part)
		return err
	}
	return syncDir(filepath.Dir(aside))
}

// pruneCopies removes all copies but the newest, of which last is one.
func pruneCopies(last string) {
	names, err := filepath.Glob(filepath.Join(filepath.Dir(last), cutPrefix+"*"))
	if err != nil {
		return
	}
	age := make(map[string]time.Time, len(names))
	for _, name := range names {
		if st, err := os.Stat(name); err == nil {
			age[name] = st.ModTime()
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == last })
	slices.SortFunc(names, func(a, b string) int { return age[b].Compare(age[a]) })
	for _, name := range names[min(cutCopies-1, len(names)):] {
		_ = os.Remove(name)
	}
}
