package mysqlctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// PackedSuffix is what the name of a compressed log ends with.
const PackedSuffix = ".zst"

// PackLog compresses a log that nobody writes to, under its name and PackedSuffix. It is
// durable when the directory is synced; the log itself is left.
func PackLog(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	part := name + PackedSuffix + ".part"
	err = writeFile(part, os.O_TRUNC, func(out io.Writer) error {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		z.ResetContentSize(out, st.Size()) // for LogSize
		_, err = io.Copy(z, in)
		return errors.Join(err, z.Close())
	})
	if err == nil {
		err = os.Rename(part, name+PackedSuffix)
	}
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	return nil
}

// unpackLog writes what PackLog made of a log to a file that does not exist.
func unpackLog(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	return writeFile(to, os.O_EXCL, func(out io.Writer) error {
		if _, err := io.Copy(out, z); err != nil {
			return unpackError(err)
		}
		return nil
	})
}

// unpackError tells damage from a disk that fails.
func unpackError(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreadable, err)
}

// writeFile makes a durable file of what write writes, or none.
func writeFile(name string, flag int, write func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|flag, 0o640)
	if err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// LogSize is how large a log is when it is not compressed, in bytes.
func LogSize(name string) (int64, error) {
	st, err := os.Stat(name)
	if err != nil || !strings.HasSuffix(name, PackedSuffix) {
		return fileSize(name), err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	start := make([]byte, min(zstd.HeaderMaxSize, st.Size()))
	if _, err := io.ReadFull(f, start); err != nil {
		return 0, err
	}
	var h zstd.Header
	if err := h.Decode(start); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if !h.HasFCS {
		return 0, fmt.Errorf("%w: it does not say how large it is", ErrUnreadable)
	}
	return int64(h.FrameContentSize), nil
}
