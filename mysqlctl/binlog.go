package mysqlctl

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/replication"

	"ha/mysqlctl/gtid"
)

const (
	headerSize   = replication.EventHeaderSize
	checksumSize = replication.BinlogChecksumLength
	sizeOffset   = 9  // in the header
	flagsOffset  = 17 // there too
	inUse        = 1  // the flag of a file that is open, or was when mysqld died
	windowSize   = 1 << 20
	// verifyTail is how much of the end of a file has its checksums verified: what
	// lies before was followed by more that mysqld wrote.
	verifyTail = 16 << 20
)

// errTorn ends the reading of a file whose last transaction was written in part.
var errTorn = errors.New("written in part")

// binlogReader walks the events of one binary log file.
type binlogReader struct {
	file      io.ReaderAt
	size      int64
	window    []byte
	windowOff int64
	parser    *replication.BinlogParser
	checksums bool     // events end with a CRC32
	inUse     bool     // the flag: nobody has closed the file, nor recovered it
	begun     bool     // Previous_gtids was seen
	previous  gtid.Set // Previous_gtids
	closed    bool     // a Rotate or Stop event was seen
	head      int64    // where Previous_gtids end
	torn      int64    // where a part that is no whole transaction begins; 0 if there is none
	stray     event    // the last event that is in no transaction and belongs to none of the above
	gtids     gtidCollector
	// each is called for each complete transaction, if it is not nil.
	each func(transaction) error
}

// transaction is one of those in a file: its GTID, and from where to where it is.
type transaction struct {
	sid      []byte
	tag      string
	number   uint64
	off, end int64
	at       time.Time // when it was committed where it was first
}

// readBinlog returns the GTIDs in a binary log file: Previous_gtids and those of all
// complete transactions. begun is false if the file ends before Previous_gtids.
func readBinlog(name string) (set gtid.Set, begun bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return set, false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return set, false, err
	}
	return readEvents(f, st.Size())
}

func readEvents(file io.ReaderAt, size int64) (set gtid.Set, begun bool, err error) {
	r := &binlogReader{file: file, size: size, parser: replication.NewBinlogParser()}
	r.parser.SetVerifyChecksum(true)
	if err := r.walk(); err != nil {
		return set, false, err
	}
	set, err = r.gtids.set()
	return set, r.begun, err
}

// at returns n bytes at off, which stay valid until the next call.
func (r *binlogReader) at(off int64, n int) ([]byte, error) {
	if off+int64(n) > r.size {
		return nil, errTorn
	}
	if off < r.windowOff || off+int64(n) > r.windowOff+int64(len(r.window)) {
		want := int(max(int64(n), min(windowSize, r.size-off)))
		if cap(r.window) < want {
			r.window = make([]byte, want)
		}
		r.window = r.window[:want]
		r.windowOff = off
		if _, err := r.file.ReadAt(r.window, off); err != nil {
			r.window = nil
			return nil, err
		}
	}
	return r.window[off-r.windowOff:][:n], nil
}

// event is the header of one event.
type event struct {
	kind replication.EventType
	off  int64
	size int64
}

func (e event) end() int64 { return e.off + e.size }

// header reads the event at off. errTorn if the file ends within it.
func (r *binlogReader) header(off int64) (event, error) {
	h, err := r.at(off, headerSize)
	if err != nil {
		return event{}, err
	}
	e := event{kind: replication.EventType(h[4]), off: off, size: int64(binary.LittleEndian.Uint32(h[9:]))}
	if e.size == 0 && r.zeros(off+sizeOffset) {
		return e, errTorn
	}
	if e.size < headerSize {
		return e, fmt.Errorf("%w: an event of %d bytes at %d", ErrUnreadable, e.size, off)
	}
	if e.end() > r.size {
		return e, errTorn
	}
	return e, nil
}

func (r *binlogReader) walk() error {
	magic, err := r.at(0, 4)
	if errors.Is(err, errTorn) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(magic, replication.BinLogFileHeader) {
		return fmt.Errorf("%w: it begins with % x: encrypted?", ErrUnreadable, magic)
	}
	for off := int64(len(magic)); off < r.size; {
		next, err := r.step(off)
		if errors.Is(err, errTorn) {
			r.torn = off
			return nil
		}
		if err != nil {
			return err
		}
		off = next
	}
	return nil
}

// step reads one event, or one whole transaction, and returns where the next begins.
func (r *binlogReader) step(off int64) (int64, error) {
	e, err := r.header(off)
	if err != nil {
		return 0, err
	}
	switch e.kind {
	case replication.FORMAT_DESCRIPTION_EVENT:
		parsed, err := r.parse(e)
		if err != nil {
			return 0, err
		}
		fde, ok := parsed.(*replication.FormatDescriptionEvent)
		r.checksums = ok && fde.ChecksumAlgorithm == replication.BINLOG_CHECKSUM_ALG_CRC32
		flags, err := r.at(e.off+flagsOffset, 2)
		if err != nil {
			return 0, err
		}
		r.inUse = binary.LittleEndian.Uint16(flags)&inUse != 0
	case replication.PREVIOUS_GTIDS_EVENT:
		raw, err := r.at(e.off, int(e.size))
		if err != nil {
			return 0, err
		}
		body := raw[headerSize:]
		if r.checksums {
			body = body[:max(0, len(body)-checksumSize)]
		}
		if err := r.gtids.addPrevious(body); err != nil {
			return 0, err
		}
		if r.previous, err = r.gtids.set(); err != nil {
			return 0, err
		}
		r.begun, r.head = true, e.end()
	case replication.GTID_EVENT, replication.GTID_TAGGED_LOG_EVENT:
		return r.transaction(e)
	case replication.ROTATE_EVENT, replication.STOP_EVENT:
		r.closed = true
	default:
		r.stray = e
	}
	return e.end(), nil
}

// transaction reads the transaction that begins with the GTID event e.
func (r *binlogReader) transaction(e event) (int64, error) {
	parsed, err := r.parse(e)
	if err != nil && r.zeros(e.end()-checksumSize) {
		return 0, errTorn
	}
	if err != nil {
		return 0, err
	}
	g, err := gtidOf(parsed)
	if err != nil {
		return 0, fmt.Errorf("at %d: %w", e.off, err)
	}
	sid, tag, number := bytes.Clone(g.SID), g.Tag.String(), g.GNO
	end := e.off + int64(g.TransactionLength)
	if g.TransactionLength == 0 { // MySQL 5.7 does not say
		if end, err = r.findEnd(e.end()); err != nil {
			return 0, err
		}
	}
	if end < e.end() {
		return 0, fmt.Errorf("%w: the transaction at %d says it has %d bytes", ErrUnreadable, e.off, g.TransactionLength)
	}
	if end > r.size {
		return 0, errTorn
	}
	if end > r.size-verifyTail {
		if _, err := r.verify(e.off, end); err != nil {
			return 0, err
		}
	}
	r.gtids.add(sid, tag, uint64(number), uint64(number))
	if r.each != nil {
		if err := r.each(transaction{sid, tag, uint64(number), e.off, end, committed(g)}); err != nil {
			return 0, err
		}
	}
	return end, nil
}

// committed is when a transaction was committed where it was first or, where that
// server did not say, on the one that wrote the file.
func committed(g replication.GTIDEvent) time.Time {
	if g.OriginalCommitTimestamp == 0 {
		return g.ImmediateCommitTime()
	}
	return g.OriginalCommitTime()
}

// verify checks that whole events with right checksums fill off to end, which is in
// the file, and returns the last of them.
func (r *binlogReader) verify(off, end int64) (last event, err error) {
	for off < end {
		e, err := r.header(off)
		if errors.Is(err, errTorn) && !r.zeros(off+sizeOffset) {
			return e, fmt.Errorf("%w: an event of %d bytes at %d", ErrUnreadable, e.size, off)
		}
		if err != nil {
			return e, err
		}
		if r.checksums && e.size >= headerSize+checksumSize {
			var sum uint32
			for from := e.off; from < e.end()-checksumSize; {
				part, err := r.at(from, int(min(e.end()-checksumSize-from, windowSize)))
				if err != nil {
					return e, err
				}
				sum = crc32.Update(sum, crc32.IEEETable, part)
				from += int64(len(part))
			}
			want, err := r.at(e.end()-checksumSize, checksumSize)
			if err != nil {
				return e, err
			}
			if sum != binary.LittleEndian.Uint32(want) {
				if r.zeros(e.end() - checksumSize) {
					return e, errTorn
				}
				return e, fmt.Errorf("%w: checksum of the event at %d", ErrUnreadable, e.off)
			}
		}
		off, last = e.end(), e
	}
	if off != end {
		return last, fmt.Errorf("%w: the transaction at %d has not the length it says", ErrUnreadable, off)
	}
	return last, nil
}

// zeros reports whether nothing but zeros follow, which a file system leaves behind
// after a power loss where data had not been synced.
func (r *binlogReader) zeros(off int64) bool {
	for off < r.size {
		rest, err := r.at(off, int(min(windowSize, r.size-off)))
		if err != nil || bytes.Count(rest, []byte{0}) != len(rest) {
			return false
		}
		off += int64(len(rest))
	}
	return true
}

// findEnd looks for the event that ends a transaction.
func (r *binlogReader) findEnd(off int64) (int64, error) {
	for {
		e, err := r.header(off)
		if err != nil {
			return 0, err
		}
		switch e.kind {
		case replication.XID_EVENT, replication.XA_PREPARE_LOG_EVENT:
			return e.end(), nil
		case replication.QUERY_EVENT:
			parsed, err := r.parse(e)
			if err != nil {
				return 0, err
			}
			if q, ok := parsed.(*replication.QueryEvent); ok && !opens(string(q.Query)) {
				return e.end(), nil
			}
		case replication.GTID_EVENT, replication.ROTATE_EVENT, replication.STOP_EVENT:
			return e.off, nil
		}
		off = e.end()
	}
}

// opens reports whether a statement begins a transaction or is one step in it.
func opens(query string) bool {
	for _, word := range []string{"BEGIN", "XA START", "XA END", "SAVEPOINT", "ROLLBACK TO"} {
		if strings.HasPrefix(query, word) {
			return true
		}
	}
	return false
}

// parse hands one event to go-mysql, and returns nil for one that it skips.
func (r *binlogReader) parse(e event) (parsed replication.Event, err error) {
	defer func() { // it trusts lengths
		if p := recover(); p != nil {
			parsed, err = nil, fmt.Errorf("%w: event at %d: %v", ErrUnreadable, e.off, p)
		}
	}()
	raw, err := r.at(e.off, int(e.size))
	if err != nil {
		return nil, err
	}
	if e.kind == replication.FORMAT_DESCRIPTION_EVENT {
		// mysqld sets the flag "in use" behind the back of the checksum.
		raw = bytes.Clone(raw)
		raw[flagsOffset] &^= inUse
	}
	_, err = r.parser.ParseSingleEvent(bytes.NewReader(raw), func(ev *replication.BinlogEvent) error {
		parsed = ev.Event
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: event at %d: %w", ErrUnreadable, e.off, err)
	}
	return parsed, nil
}

// gtidCollector gathers GTIDs, of which the next is mostly one more than the last.
type gtidCollector struct {
	runs map[string][][2]uint64 // first and last, by "uuid:tag" or "uuid"
}

// uuidText is how MySQL prints a uuid.
func uuidText(sid []byte) string {
	h := hex.EncodeToString(sid)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

func (c *gtidCollector) add(sid []byte, tag string, first, last uint64) {
	c.addText(uuidText(sid), tag, first, last)
}

func (c *gtidCollector) addText(key, tag string, first, last uint64) {
	if tag != "" {
		key += ":" + tag
	}
	if c.runs == nil {
		c.runs = make(map[string][][2]uint64)
	}
	runs := c.runs[key]
	if n := len(runs); n > 0 && runs[n-1][1]+1 == first {
		runs[n-1][1] = last
		return
	}
	c.runs[key] = append(runs, [2]uint64{first, last})
}

func (c *gtidCollector) set() (gtid.Set, error) {
	var text strings.Builder
	for key, runs := range c.runs {
		text.WriteString("," + key)
		for _, run := range runs {
			fmt.Fprintf(&text, ":%d-%d", run[0], run[1])
		}
	}
	return gtid.Parse(strings.TrimPrefix(text.String(), ","))
}

// addPrevious decodes a Previous_gtids event. go-mysql 1.16 loses the uuid of a
// source that has tagged GTIDs only, and so counts them to another source.
func (c *gtidCollector) addPrevious(body []byte) error {
	bad := fmt.Errorf("%w: Previous_gtids", ErrUnreadable)
	if len(body) < 8 {
		return bad
	}
	// The last byte is the format: 0 without tags; with tags (1) it is at both
	// ends of the number, and the number of sources between them.
	head := binary.LittleEndian.Uint64(body)
	tagged := body[7] == 1
	sources := head
	if tagged {
		sources = head << 8 >> 16
	}
	body = body[8:]
	for range sources {
		if len(body) < 16 {
			return bad
		}
		sid, tag := body[:16], ""
		body = body[16:]
		if tagged {
			if len(body) < 1 || len(body) < 1+int(body[0]>>1) {
				return bad
			}
			n := int(body[0] >> 1)
			tag, body = string(body[1:1+n]), body[1+n:]
		}
		if len(body) < 8 {
			return bad
		}
		intervals := binary.LittleEndian.Uint64(body)
		body = body[8:]
		if intervals > uint64(len(body))/16 {
			return bad
		}
		for range intervals {
			first, after := binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:])
			if first == 0 || after <= first {
				return bad
			}
			c.add(sid, tag, first, after-1)
			body = body[16:]
		}
	}
	return nil
}
