package xtra

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// A stream is a tar archive, compressed with zstd. Entries below notes say how it
// goes and how it ended; the others are files, in the order of their paths. What ends
// without its "end" is no copy, however much of it came.
const (
	notes   = ".ha/"
	endNote = "end"
	maxNote = 64 << 20 // the sums of some 500,000 files
	chunk   = 256 << 10
)

// Errors to be told apart with errors.Is.
var (
	// ErrCutShort: a stream ended before its end.
	ErrCutShort = errors.New("stream ended too early")
	// ErrDiffers: a file is not what it was.
	ErrDiffers = errors.New("differs")
)

// File is one file of a copy.
type File struct {
	Path   string `json:"path"` // relative, with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Tree is all that is in a directory: files, and directories, which may be empty.
type Tree struct {
	Dirs  []string `json:"dirs"`
	Files []File   `json:"files"`
}

// Total is the size of all files, in bytes.
func (t Tree) Total() int64 {
	var n int64
	for _, f := range t.Files {
		n += f.Size
	}
	return n
}

// Sender writes a stream. Only one goroutine may use it at a time.
type Sender struct {
	tar  *tar.Writer
	comp *zstd.Encoder
	out  interface{ Flush() error }
}

// NewSender begins a stream. out is flushed after each note.
func NewSender(out interface {
	io.Writer
	Flush() error
}) (*Sender, error) {
	comp, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return &Sender{tar: tar.NewWriter(comp), comp: comp, out: out}, nil
}

// Note sends a document; the receiver has it when Note returns, but for the network.
func (s *Sender) Note(kind string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	err = s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: notes + kind, Size: int64(len(text)), Mode: 0o600})
	if err == nil {
		_, err = s.tar.Write(text)
	}
	return errors.Join(err, s.tar.Flush(), s.comp.Flush(), s.out.Flush())
}

// Files sends all that is in dir, which nobody may change meanwhile, and returns it.
func (s *Sender) Files(ctx context.Context, dir string) (Tree, error) {
	return walk(dir, func(path string, info fs.FileInfo) (string, error) {
		if info.IsDir() {
			return "", s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: 0o750})
		}
		f, err := os.Open(filepath.Join(dir, filepath.FromSlash(path)))
		if err != nil {
			return "", err
		}
		defer f.Close()
		if err := s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Size: info.Size(), Mode: 0o640}); err != nil {
			return "", err
		}
		return copySum(ctx, s.tar, f, nil)
	})
}

// End sends the last note: without it the receiver takes nothing.
func (s *Sender) End(v any) error {
	err := s.Note(endNote, v)
	return errors.Join(err, s.tar.Close(), s.comp.Close(), s.out.Flush())
}

// Abort frees what the sender holds. After End it does nothing.
func (s *Sender) Abort() { _ = s.comp.Close() }

// walk calls each for all that is in dir, in the order of the paths. For files it
// gives the sum.
func walk(dir string, each func(path string, info fs.FileInfo) (sum string, err error)) (Tree, error) {
	t := Tree{Dirs: []string{}, Files: []File{}}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !d.IsDir() && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a directory", rel)
		}
		sum, err := each(rel, info)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", rel, err)
		case d.IsDir():
			t.Dirs = append(t.Dirs, rel)
		default:
			t.Files = append(t.Files, File{rel, info.Size(), sum})
		}
		return nil
	})
	return t, err
}

// copySum copies all of src and gives its SHA-256.
func copySum(ctx context.Context, dst io.Writer, src io.Reader, progress func(n int64)) (string, error) {
	sum := sha256.New()
	buf := make([]byte, chunk)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := src.Read(buf)
		sum.Write(buf[:n])
		if _, err := dst.Write(buf[:n]); err != nil {
			return "", err
		}
		if progress != nil {
			progress(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// Receive writes the files of a stream below dir, which exists and is empty, and
// gives what was written and the text of the end note. note is called with each other
// note, and an error that it returns ends it; progress with the bytes written since.
// ErrCutShort if the stream has no end. Nothing is synced: see Sync.
func Receive(ctx context.Context, in io.Reader, dir string, note func(kind string, text []byte) error, progress func(n int64)) (Tree, []byte, error) {
	t := Tree{Dirs: []string{}, Files: []File{}}
	end, err := receive(in, note, func(h *tar.Header, r io.Reader) error {
		path := strings.TrimSuffix(h.Name, "/")
		if !filepath.IsLocal(filepath.FromSlash(path)) {
			return fmt.Errorf("the stream has a file %q, which is outside", path)
		}
		name := filepath.Join(dir, filepath.FromSlash(path))
		if h.Typeflag == tar.TypeDir {
			if err := os.Mkdir(name, 0o750); err != nil {
				return err
			}
			t.Dirs = append(t.Dirs, path)
			return nil
		}
		f, err := writeFile(ctx, name, r, progress)
		if err != nil {
			return err
		}
		f.Path = path
		t.Files = append(t.Files, f)
		return nil
	})
	return t, end, err
}

// receive reads a stream until its end note, whose text it gives. entry is called
// with all that is no note.
func receive(in io.Reader, note func(kind string, text []byte) error, entry func(h *tar.Header, r io.Reader) error) ([]byte, error) {
	comp, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer comp.Close()
	for r := tar.NewReader(comp); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrCutShort
		}
		if err != nil {
			return nil, fmt.Errorf("read stream: %w", err)
		}
		kind, ok := strings.CutPrefix(h.Name, notes)
		if !ok {
			if err := entry(h, r); err != nil {
				return nil, err
			}
			continue
		}
		text, err := io.ReadAll(io.LimitReader(r, maxNote))
		if err != nil {
			return nil, fmt.Errorf("read stream: %w", err)
		}
		if kind == endNote {
			return text, nil
		}
		if err := note(kind, text); err != nil {
			return nil, err
		}
	}
}

// writeFile makes a file that does not exist yet.
func writeFile(ctx context.Context, name string, r io.Reader, progress func(n int64)) (File, error) {
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return File{}, err
	}
	defer out.Close()
	sum, err := copySum(ctx, out, r, progress)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrCutShort
	}
	if err != nil {
		return File{}, err
	}
	info, err := out.Stat()
	if err != nil {
		return File{}, err
	}
	return File{Size: info.Size(), SHA256: sum}, out.Close()
}

// Sync makes all that is in dir durable, however many files it has.
func Sync(dir string) error { return syncAll(dir) }
