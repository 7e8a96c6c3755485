package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/xtra"
)

// prefix is what the files are named with: they have numbers, as a server's have.
const prefix = "binlog."

// store is the files. The last is written to, the others are compressed.
type store struct {
	dir      string
	size     int64
	log      *slog.Logger
	last     *mysqlctl.LogFile // nil: there is none yet
	number   int               // of it
	format   []byte            // describes what the dump sends
	anew     bool              // a log of the server has begun since
	before   gtid.Set          // what an empty archive begins behind
	syncedAt time.Time
	at       time.Time // of the last transaction that is durable
}

// openStore finds the end of the archive, cuts off what was being written when its
// agent died, and finishes what that had begun.
func openStore(dir string, size int64, log *slog.Logger) (*store, error) {
	s := &store{dir: dir, size: size, log: log}
	numbers, err := s.files()
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return s, nil
	}
	s.number, numbers = numbers[len(numbers)-1], numbers[:len(numbers)-1]
	name := s.name(s.number)
	l, cut, err := mysqlctl.OpenLog(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the last file of the archive, %s, is compressed: the one behind it is gone; put that back, or `zstd -d --rm` this one", name)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", name, err)
	case cut > 0:
		log.Info("unfinished end of the archive cut off", "file", name, "bytes", cut)
	}
	s.last, s.at = l, l.At()
	if err := xtra.SyncDir(s.dir); err != nil {
		return nil, errors.Join(err, s.close())
	}
	for _, n := range numbers {
		if err := s.pack(n); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *store) name(number int) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s%06d", prefix, number))
}

// files are the numbers that there are, each once, in their order.
func (s *store) files() ([]int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		text, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), mysqlctl.PackedSuffix), prefix)
		if n, err := strconv.Atoi(text); ok && err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// set is what the archive holds, or begins behind.
func (s *store) set() (gtid.Set, error) {
	if s.last == nil {
		return s.before, nil
	}
	return s.last.Set()
}

// describe takes what the server says of the events that follow, at the begin of each
// of its logs and of each dump. They need a file of their own: each log numbers its
// transactions anew, and by that an applier knows which may be applied at once.
func (s *store) describe(format []byte) { s.format, s.anew = bytes.Clone(format), true }

// begin takes the first event of a transaction, in a new file where it is time for one.
func (s *store) begin(b *mysqlctl.Begun, event []byte) error {
	if s.format == nil {
		return fmt.Errorf("%s begins before the server has described its events", b)
	}
	if s.last == nil || s.last.Whole() && (s.anew || s.last.Size() >= s.size) {
		if err := s.next(); err != nil {
			return err
		}
	}
	return s.last.Begin(b, event)
}

func (s *store) more(event []byte) error {
	if s.last == nil {
		return errors.New("an event of no transaction")
	}
	return s.last.Append(event)
}

// next begins a file, and compresses the one before when that is no longer the last.
func (s *store) next() error {
	before, old := s.before, s.number
	if s.last != nil {
		var err error
		if before, err = s.last.Set(); err != nil {
			return err
		}
		if err := s.sync(); err != nil {
			return err
		}
	}
	l, err := mysqlctl.CreateLog(s.name(s.number+1), s.format, before)
	if err != nil {
		return err
	}
	if err := xtra.SyncDir(s.dir); err != nil {
		return errors.Join(err, l.Close()) // the next opening goes on with it
	}
	was := s.last
	s.last, s.number, s.anew = l, s.number+1, false
	if was == nil {
		return nil
	}
	if err := was.Close(); err != nil {
		return err
	}
	return s.pack(old)
}

// pack compresses a file that is not the last, if it is not yet.
func (s *store) pack(number int) error {
	name := s.name(number)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := mysqlctl.PackLog(name)
	if err == nil {
		err = xtra.SyncDir(s.dir)
	}
	if err == nil {
		err = os.Remove(name)
	}
	return err
}

// sync makes what was archived durable.
func (s *store) sync() error {
	s.syncedAt = time.Now()
	if s.last == nil {
		return nil
	}
	if err := s.last.Sync(); err != nil {
		return err
	}
	if at := s.last.At(); !at.IsZero() {
		s.at = at
	}
	return nil
}

func (s *store) close() error {
	if s.last == nil {
		return nil
	}
	return s.last.Close()
}
