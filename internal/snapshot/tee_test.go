package snapshot

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// refusing takes so many bytes.
type refusing struct{ left int }

var errRefused = errors.New("refused")

func (r *refusing) Write(p []byte) (int, error) {
	if len(p) > r.left {
		return 0, errRefused
	}
	r.left -= len(p)
	return len(p), nil
}

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) / 2, nil }

// TestTee gives a file to a scanner and to a writer, and lets each of them fail.
func TestTee(t *testing.T) {
	file := withTrailer(small(t))
	_, want, err := scan(file, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	try := func(b []byte, dst io.Writer) (Info, error) {
		s := NewScanner(Options{Size: int64(len(file))})
		tee := NewTee(s, dst)
		_, err := io.CopyBuffer(struct{ io.Writer }{tee}, bytes.NewReader(b), make([]byte, 5000))
		if err := tee.Close(); err != nil {
			t.Error(err)
		}
		if err != nil {
			return Info{}, err
		}
		return s.Finish()
	}
	var got bytes.Buffer
	info, err := try(file, struct{ io.Writer }{&got})
	if err != nil || info.SHA256 != want.SHA256 || info.Records != want.Records || !bytes.Equal(got.Bytes(), file) {
		t.Errorf("%+v, %v, want %+v", info, err, want)
	}
	if _, err := try(file, &refusing{left: 12_000}); !errors.Is(err, errRefused) {
		t.Errorf("a writer that fails: %v", err)
	}
	if _, err := try(file, short{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a writer that is short: %v", err)
	}
	if _, err := try(append(bytes.Clone(file), 0), io.Discard); !errors.Is(err, ErrCorrupt) {
		t.Errorf("more bytes than the scanner takes: %v", err)
	}
}
