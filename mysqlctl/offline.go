package mysqlctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ha/mysqlctl/gtid"
)

// baseFile keeps the executed set at the last start. The binary log alone does not
// tell what a server has executed: what came with a clone, or by SET gtid_purged, is
// in no binary log of its own, nor in their Previous_gtids.
const baseFile = ".ha_gtid_base"

// base is the content of baseFile. Data is a mark of the data directory's life: a
// restore into the same place leaves hidden files behind, and must not inherit them.
type base struct {
	Data     string   `json:"data"`
	Executed gtid.Set `json:"executed"`
}

// dataMark tells one life of the data directory from the next: the system tablespace
// is made once, at its birth, and never replaced while it lives.
func (s *Server) dataMark() (string, error) {
	var st unix.Statx_t
	name := filepath.Join(s.cfg.DataDir, "ibdata1")
	if err := unix.Statx(unix.AT_FDCWD, name, 0, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return fmt.Sprintf("%d.%d.%d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}

// saveBase writes the executed set of the server that has just been started.
func (s *Server) saveBase(ctx context.Context) error {
	pos, err := s.Position(ctx)
	if err != nil {
		return err
	}
	mark, err := s.dataMark()
	if err != nil {
		return err
	}
	text, err := json.Marshal(base{mark, pos.Executed})
	if err != nil {
		return err
	}
	name := filepath.Join(s.cfg.DataDir, baseFile)
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := writeDurably(name, text); err != nil {
		// A full disk must not keep a server from starting. Without the file the
		// position cannot be read offline, which OfflinePosition says.
		s.log.Warn("executed set not saved", "err", err)
		_ = os.Remove(name)
	}
	return nil
}

func (s *Server) readBase() (gtid.Set, error) {
	var b base
	text, err := os.ReadFile(filepath.Join(s.cfg.DataDir, baseFile))
	if errors.Is(err, os.ErrNotExist) {
		return gtid.Set{}, fmt.Errorf("%w: ha has not started this server yet", ErrUnreadable)
	}
	if err != nil {
		return gtid.Set{}, err
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return gtid.Set{}, fmt.Errorf("%w: %s: %w", ErrUnreadable, baseFile, err)
	}
	mark, err := s.dataMark()
	if err != nil {
		return gtid.Set{}, err
	}
	if mark != b.Data {
		return gtid.Set{}, fmt.Errorf("%w: the data were replaced since ha last started this server", ErrUnreadable)
	}
	return b.Executed, nil
}

func writeDurably(name string, text []byte) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(name + ".new")
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// OfflinePosition reads from the disk what the server would have executed if it were
// started now: what it had at its last start, and the last binary log with every
// complete transaction in it. Those that waited for an acknowledgement are in, as a
// start commits them; one that was written in part is not, as a start drops it.
// ErrRunning while mysqld runs; ErrUnreadable if the log is encrypted or damaged, or
// the last start is not known: then only a start of the server tells.
func (s *Server) OfflinePosition() (gtid.Set, error) {
	if s.Alive() || s.findRunning() != 0 {
		return gtid.Set{}, fmt.Errorf("offline position: %w", ErrRunning)
	}
	set, err := s.readBase()
	if err != nil {
		return gtid.Set{}, fmt.Errorf("offline position: %w", err)
	}
	files, err := s.binlogFiles()
	if err != nil {
		return gtid.Set{}, fmt.Errorf("offline position: %w", err)
	}
	found, err := lastSet(files)
	if err != nil {
		return gtid.Set{}, fmt.Errorf("offline position: %w", err)
	}
	return set.Union(found), nil
}

// lastSet reads the last of some logs. A file that was only just begun has no
// Previous_gtids yet: then the one before it is the last.
func lastSet(files []string) (gtid.Set, error) {
	for _, name := range slices.Backward(files) {
		found, begun, err := readBinlog(name)
		if err != nil {
			return gtid.Set{}, fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
		if begun {
			return found, nil
		}
	}
	return gtid.Set{}, fmt.Errorf("%w: no binary log", ErrUnreadable)
}

// elsewhere says that an option of mysqld may put the relay logs elsewhere.
func elsewhere(option string) bool {
	return strings.HasPrefix(strings.ReplaceAll(strings.TrimLeft(option, "-"), "_", "-"), "relay-log")
}

// OfflineReceived reads from the disk what the server had received in whole, be it
// executed or not, since its channel was made. ErrUnreadable also where a my.cnf or an
// option may have put its relay logs elsewhere.
func (s *Server) OfflineReceived() (gtid.Set, error) {
	if s.Alive() || s.findRunning() != 0 {
		return gtid.Set{}, fmt.Errorf("offline received: %w", ErrRunning)
	}
	found, err := filepath.Glob(filepath.Join(s.cfg.DataDir, "*relay*.index"))
	switch {
	case err != nil:
		return gtid.Set{}, err
	case len(found) > 1, len(found) == 0 && (s.cfg.DefaultsFile != "" || slices.ContainsFunc(s.cfg.Options, elsewhere)):
		return gtid.Set{}, fmt.Errorf("offline received: %w: %d indexes of relay logs", ErrUnreadable, len(found))
	case len(found) == 0:
		return gtid.Set{}, nil
	}
	files, err := s.logFiles(found[0])
	if err != nil || len(files) == 0 {
		return gtid.Set{}, err
	}
	set, err := lastSet(files)
	if err != nil {
		return gtid.Set{}, fmt.Errorf("offline received: %w", err)
	}
	return set, nil
}

// binlogFiles lists the binary logs in the index, oldest first.
func (s *Server) binlogFiles() ([]string, error) { return s.logFiles(s.cfg.logBin() + ".index") }

func (s *Server) logFiles(index string) ([]string, error) {
	text, err := os.ReadFile(index)
	if err != nil {
		return nil, err
	}
	var files []string
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		if name == "" {
			continue
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(s.cfg.DataDir, name)
		}
		files = append(files, name)
	}
	return files, nil
}
