package durable

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestStepwise(t *testing.T) {
	for name, begin := range map[string]func(*os.File) *Stepwise{"paced": NewStepwise, "overlapped": NewOverlapped} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			w := begin(file)
			var want bytes.Buffer
			for _, size := range []int{1, stepBytes - 2, 1, 0, stepBytes, 3*stepBytes + 5, pieceBytes + 1, 7, 5 * stepBytes} {
				part := bytes.Repeat([]byte{byte(size)}, size)
				want.Write(part)
				if n, err := w.Write(part); n != size || err != nil {
					t.Fatalf("wrote %d of %d bytes: %v", n, size, err)
				}
				if w.written != int64(want.Len()) || w.written-w.started >= stepBytes || w.started-w.waited > w.behind {
					t.Errorf("after %d bytes %d are written, %d started and %d waited for", want.Len(), w.written, w.started, w.waited)
				}
			}
			if w.waited < 5*stepBytes {
				t.Errorf("waited for %d bytes only", w.waited)
			}
			if err := errors.Join(file.Sync(), file.Close()); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%d bytes of %d: %v", len(got), want.Len(), err)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
				t.Errorf("a file that is closed: %v", err)
			}
		})
	}
}

// TestStepwiseWithoutTheCall writes to what cannot be told to take a range.
func TestStepwiseWithoutTheCall(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	go func() {
		buffer := make([]byte, 1<<20)
		for {
			if _, err := reader.Read(buffer); err != nil {
				return
			}
		}
	}()
	w := NewStepwise(writer)
	if n, err := w.Write(make([]byte, stepBytes+1)); n != stepBytes+1 || err != nil {
		t.Errorf("wrote %d bytes: %v", n, err)
	}
	if err := writer.Close(); err != nil {
		t.Error(err)
	}
}
