package xtra

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

// The output of a program comes whole or not at all, wherever its stream is cut.
func TestBlocks(t *testing.T) {
	var stream pipe
	s, err := NewSender(&stream)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("page", 50_000)
	var sum Digest
	for i, part := range []string{text[:1], text[1:100_000], "", text[100_000:]} {
		if err := errors.Join(s.Note("progress", i), s.Block([]byte(part))); err != nil {
			t.Fatal(err)
		}
		_, _ = sum.Write([]byte(part))
	}
	if err := s.End(sum.Sum()); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var notes string
	var took int64
	note := func(kind string, text []byte) error { notes += kind + string(text) + " "; return nil }
	got, end, err := ReceiveBlocks(t.Context(), bytes.NewReader(stream.Bytes()), &out, note, func(n int64) { took += n })
	if err != nil || out.String() != text || took != int64(len(text)) || notes != "progress0 progress1 progress2 progress3 " {
		t.Errorf("%v, %d bytes, told of %d, notes %s", err, out.Len(), took, notes)
	}
	if want := sum.Sum(); got != want || got.Bytes != int64(len(text)) || !strings.Contains(string(end), want.SHA256) {
		t.Errorf("%+v, want %+v, end %s", got, want, end)
	}
	for n := range stream.Len() {
		out.Reset()
		got, end, err := ReceiveBlocks(t.Context(), bytes.NewReader(stream.Bytes()[:n]), &out, note, nil)
		if err == nil && (got != sum.Sum() || !strings.Contains(string(end), got.SHA256)) {
			t.Fatalf("the first %d of %d bytes are taken for the whole", n, stream.Len())
		}
	}
}

func TestBlocksEnd(t *testing.T) {
	var stream pipe
	s, err := NewSender(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Note("progress", 1), s.Block([]byte("rows")), s.End("over")); err != nil {
		t.Fatal(err)
	}
	own := errors.New("own")
	nothing := func(string, []byte) error { return nil }
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		out  writes
		note func(string, []byte) error
		want error
	}{
		"canceled":           {canceled, nil, nothing, context.Canceled},
		"nobody takes it":    {t.Context(), func([]byte) (int, error) { return 0, own }, nothing, own},
		"a note says enough": {t.Context(), nil, func(string, []byte) error { return own }, own},
	} {
		if c.out == nil {
			c.out = func(p []byte) (int, error) { return len(p), nil }
		}
		if _, end, err := ReceiveBlocks(c.ctx, bytes.NewReader(stream.Bytes()), c.out, c.note, nil); !errors.Is(err, c.want) || end != nil {
			t.Errorf("%s: %v, end %s", name, err, end)
		}
	}
}

type writes func(p []byte) (int, error)

func (f writes) Write(p []byte) (int, error) { return f(p) }

func TestDigestOfNothing(t *testing.T) {
	var d Digest
	if got := d.Sum(); got.Bytes != 0 || got.SHA256 != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("%+v", got)
	}
}
