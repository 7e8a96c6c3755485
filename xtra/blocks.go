package xtra

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
)

// A stream can carry, instead of files, the output of a program, whose length nobody
// knows before its end: in blocks, with notes between them.
const blockName = "block"

// Digest counts and sums up what is written to it. Its zero value is that of nothing.
type Digest struct {
	sum   hash.Hash
	bytes int64
}

// Sum is what a Digest has seen.
type Sum struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func (d *Digest) Write(p []byte) (int, error) {
	if d.sum == nil {
		d.sum = sha256.New()
	}
	d.bytes += int64(len(p))
	return d.sum.Write(p)
}

// Sum gives what has been written so far.
func (d *Digest) Sum() Sum {
	_, _ = d.Write(nil)
	return Sum{d.bytes, hex.EncodeToString(d.sum.Sum(nil))}
}

// Block sends a part of a program's output.
func (s *Sender) Block(p []byte) error {
	err := s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: blockName, Size: int64(len(p)), Mode: 0o600})
	if err == nil {
		_, err = s.tar.Write(p)
	}
	return err
}

// ReceiveBlocks writes the blocks of a stream to out and gives their sum and the text
// of the end note; note and progress are as those of Receive. ErrCutShort if the
// stream has no end: what was written until then is worth nothing.
func ReceiveBlocks(ctx context.Context, in io.Reader, out io.Writer, note func(kind string, text []byte) error, progress func(n int64)) (Sum, []byte, error) {
	var got Digest
	end, err := receive(in, note, func(_ *tar.Header, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.Copy(io.MultiWriter(&got, out), r)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrCutShort
		}
		if err == nil && progress != nil {
			progress(n)
		}
		return err
	})
	return got.Sum(), end, err
}
