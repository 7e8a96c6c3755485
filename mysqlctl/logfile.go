package mysqlctl

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"ha/mysqlctl/gtid"
)

// LogFile is a binary log that is being written, of what a dump sends: the transactions
// are byte for byte the server's, the rest says what comes before them. Its methods
// are for one goroutine.
type LogFile struct {
	file   *os.File
	out    *bufio.Writer
	gtids  gtidCollector
	at     time.Time // of the last whole transaction
	end    int64     // of it
	synced int64     // that much is durable
	begun  *Begun    // the transaction that is being written
	left   int64     // so much of it is to come
}

// CreateLog makes a log that follows on before; it has its name when its head is whole,
// and is durable when its directory is synced. format is the event with which a dump
// describes those that follow it.
func CreateLog(name string, format []byte, before gtid.Set) (*LogFile, error) {
	head := append(bytes.Clone(replication.BinLogFileHeader), format...)
	head = append(head, previousGTIDs(format, before, int64(len(head)))...)
	part := name + ".part"
	err := writeFile(part, os.O_TRUNC, func(out io.Writer) error {
		_, err := out.Write(head)
		return err
	})
	if err == nil {
		err = os.Rename(part, name)
	}
	if err != nil {
		return nil, err
	}
	l, _, err := OpenLog(name)
	return l, err
}

// previousGTIDs makes the event that says what is in the logs before, which is to
// stand at off.
func previousGTIDs(format []byte, before gtid.Set, off int64) []byte {
	body := before.Binary()
	size := headerSize + len(body)
	sum := hasChecksums(format)
	if sum {
		size += checksumSize
	}
	e := make([]byte, headerSize, size)
	copy(e, format[:headerSize]) // when, by which server
	e[4] = byte(replication.PREVIOUS_GTIDS_EVENT)
	binary.LittleEndian.PutUint32(e[sizeOffset:], uint32(size))
	binary.LittleEndian.PutUint32(e[sizeOffset+4:], uint32(off)+uint32(size))
	binary.LittleEndian.PutUint16(e[flagsOffset:], replication.LOG_EVENT_IGNORABLE_F)
	e = append(e, body...)
	if sum {
		e = binary.LittleEndian.AppendUint32(e, crc32.ChecksumIEEE(e))
	}
	return e
}

// hasChecksums tells whether the events that format describes end with one: it says so
// before its own.
func hasChecksums(format []byte) bool {
	return replication.BinlogChecksum(format[len(format)-checksumSize-1]) == replication.BINLOG_CHECKSUM_ALG_CRC32
}

// OpenLog opens a log to go on with, and cuts off what is behind its last whole
// transaction: what was being written when the writer died. cut is how much that was.
// ErrUnreadable: it is not a log, or its head is damaged; it is left as it is.
func OpenLog(name string) (l *LogFile, cut int64, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	if l, cut, err = openLog(f); err == nil {
		return l, cut, nil
	}
	return nil, 0, errors.Join(err, f.Close())
}

func openLog(f *os.File) (*LogFile, int64, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	l := &LogFile{file: f}
	r := &binlogReader{file: f, size: st.Size(), parser: replication.NewBinlogParser()}
	r.parser.SetVerifyChecksum(true)
	r.each = func(t transaction) error {
		if _, err := r.verify(t.off, t.end); err != nil {
			return err
		}
		l.end, l.at = t.end, t.at
		return nil
	}
	// What was not synced may be anything after a power loss.
	if err := r.walk(); err != nil && !errors.Is(err, ErrUnreadable) && !errors.Is(err, errTorn) {
		return nil, 0, err
	}
	if !r.begun {
		return nil, 0, fmt.Errorf("%w: it has no Previous_gtids", ErrUnreadable)
	}
	if _, err := r.verify(int64(len(replication.BinLogFileHeader)), r.head); err != nil {
		return nil, 0, fmt.Errorf("%w: its head: %w", ErrUnreadable, err)
	}
	l.end = max(l.end, r.head)
	l.gtids = r.gtids
	l.out = bufio.NewWriterSize(f, windowSize)
	cut := st.Size() - l.end
	return l, cut, l.toEnd()
}

// toEnd makes the end of the last whole transaction that of the file.
func (l *LogFile) toEnd() error {
	l.begun, l.left = nil, 0
	l.out.Reset(l.file)
	err := l.file.Truncate(l.end)
	if err == nil {
		_, err = l.file.Seek(l.end, io.SeekStart)
	}
	if err == nil {
		err = l.file.Sync()
	}
	l.synced = l.end
	return err
}

// Begin writes the first event of a transaction. It must not be in the log.
func (l *LogFile) Begin(b *Begun, event []byte) error {
	if l.begun != nil {
		return fmt.Errorf("%s begins in %s", b, l.begun)
	}
	if b.Length < int64(len(event)) {
		return fmt.Errorf("%s does not say how long it is", b)
	}
	l.begun, l.left = b, b.Length
	return l.Append(event)
}

// Append writes a further event of it.
func (l *LogFile) Append(event []byte) error {
	if l.begun == nil || int64(len(event)) > l.left {
		return fmt.Errorf("an event of %d bytes belongs to no transaction (last: %v)", len(event), l.begun)
	}
	if _, err := l.out.Write(event); err != nil {
		return err
	}
	if l.left -= int64(len(event)); l.left > 0 {
		return nil
	}
	b := l.begun
	l.gtids.addText(b.UUID, b.Tag, b.Number, b.Number)
	l.end, l.at, l.begun = l.end+b.Length, b.At, nil
	return nil
}

// Whole tells whether no transaction is half written.
func (l *LogFile) Whole() bool { return l.begun == nil }

// Size is where the last whole transaction ends.
func (l *LogFile) Size() int64 { return l.end }

// At is when the last whole transaction was committed; zero if there is none.
func (l *LogFile) At() time.Time { return l.at }

// Set is what the log and those before it hold.
func (l *LogFile) Set() (gtid.Set, error) { return l.gtids.set() }

// Sync makes all that was written durable. After an error nothing can be said of what
// was written since the last time: the log has to be closed.
func (l *LogFile) Sync() error {
	if l.synced == l.end && l.begun == nil {
		return nil
	}
	err := l.out.Flush()
	if err == nil {
		err = l.file.Sync()
	}
	if err == nil {
		l.synced = l.end
	}
	return err
}

// Close syncs and closes it, without a transaction that is half written. After an error
// the log ends where it was durable.
func (l *LogFile) Close() error {
	err := l.Sync()
	if err != nil {
		l.end = l.synced
	}
	if err != nil || l.begun != nil {
		err = errors.Join(err, l.toEnd())
	}
	return errors.Join(err, l.file.Close())
}
