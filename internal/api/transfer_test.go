package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestReadFile(t *testing.T) {
	content := bytes.Repeat([]byte("backend "), 200_000)
	c := newIdentity(t).serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		switch r.URL.Query().Get("path") {
		case "whole":
			_, _ = w.Write(content)
		case "cut":
			_, _ = w.Write(content[:len(content)-1])
		case "hangs":
			_, _ = w.Write(content[:len(content)/2])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "endless":
			w.Header().Del("Content-Length")
			_ = http.NewResponseController(w).Flush()
		case "empty":
			w.Header().Set("Content-Length", "0")
		}
	})
	for path, want := range map[string]struct {
		bytes int
		err   string
	}{
		"whole": {len(content), ""}, "empty": {0, ""},
		"cut":   {len(content) - 1, "unexpected EOF"},
		"hangs": {len(content) / 2, "nothing moved for 1s"},
	} {
		file, size, err := c.ReadFile(t.Context(), path)
		must(t, err)
		if path != "empty" && size != int64(len(content)) {
			t.Errorf("%s: size %d", path, size)
		}
		got, err := io.ReadAll(file)
		must(t, file.Close())
		if !bytes.Equal(got, content[:want.bytes]) {
			t.Errorf("%s: %d bytes, want %d", path, len(got), want.bytes)
		}
		if want.err == "" && err != nil || want.err != "" && (!errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), want.err)) {
			t.Errorf("%s: %v, want %q", path, err, want.err)
		}
	}
	if _, _, err := c.ReadFile(t.Context(), "endless"); err == nil || !strings.Contains(err.Error(), "does not say how long") {
		t.Errorf("a file without a length: %v", err)
	}
}

// TestSlowTransferGoesOn takes longer than every limit, but never stands still.
func TestSlowTransferGoesOn(t *testing.T) {
	const parts, step = 30, 50 * time.Millisecond
	own := newIdentity(t)
	c := own.serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(parts))
		for range parts {
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(step)
		}
	})
	file, _, err := c.ReadFile(t.Context(), "f")
	must(t, err)
	if got, err := io.ReadAll(file); err != nil || len(got) != parts {
		t.Errorf("read %d bytes: %v", len(got), err)
	}
	must(t, file.Close())
	slow := readerFunc(func(p []byte) (int, error) {
		time.Sleep(step)
		return copy(p, "x"), nil
	})
	if err := c.WriteFile(t.Context(), "f", slow, parts, false); err != nil {
		t.Errorf("write: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestWriteFile(t *testing.T) {
	const size = 300_000
	type received struct {
		content []byte
		err     error
	}
	arrived := make(chan received, 1)
	c := newIdentity(t).serve(t, func(w http.ResponseWriter, r *http.Request) {
		var got received
		got.content, got.err = io.ReadAll(r.Body)
		arrived <- got
		fmt.Fprint(w, "{}")
	})
	want := bytes.Repeat([]byte("abc"), size/3)
	for name, tt := range map[string]struct {
		content io.Reader
		want    []byte
	}{
		"whole": {bytes.NewReader(want), want},
		"empty": {strings.NewReader(""), nil},
		// A file that grew since its size was taken is sent as long as it was.
		"grown": {io.MultiReader(bytes.NewReader(want), strings.NewReader("more")), want},
	} {
		must(t, c.WriteFile(t.Context(), "f", tt.content, int64(len(tt.want)), false))
		if got := <-arrived; got.err != nil || !bytes.Equal(got.content, tt.want) {
			t.Errorf("%s: %d bytes arrived, want %d: %v", name, len(got.content), len(tt.want), got.err)
		}
	}
	for name, tt := range map[string]struct {
		content io.Reader
		want    string
	}{
		"shrunk":     {bytes.NewReader(want[:size-1]), "it ended 1 bytes early"},
		"unreadable": {io.MultiReader(bytes.NewReader(want[:10]), readerFunc(func([]byte) (int, error) { return 0, errors.New("input/output error") })), "input/output error"},
	} {
		err := c.WriteFile(t.Context(), "f", tt.content, size, false)
		if err == nil || errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), `unit "etcd/0": send file: `+tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if got := <-arrived; got.err == nil {
			t.Errorf("%s: %d bytes arrived as if they were all", name, len(got.content))
		}
	}
}

// TestRefusedUploadIsNotSent wants an agent's no before the gigabytes, and the content left alone on return.
func TestRefusedUploadIsNotSent(t *testing.T) {
	own := newIdentity(t)
	refusing := own.serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"error":"it exists"}`)
	})
	content := readerFunc(func([]byte) (int, error) {
		t.Error("the content of an upload that is refused is read")
		return 0, io.EOF
	})
	for range 10 {
		err := refusing.WriteFile(t.Context(), "f", content, 1<<30, false)
		if status, is := errors.AsType[*StatusError](err); !is || status.Code != http.StatusConflict {
			t.Fatalf("want the refusal, got %v", err)
		}
	}
}

// TestContentIsTheCallersAgain has an agent answer while the content of an upload is being read: the call returns only after
// that.
func TestContentIsTheCallersAgain(t *testing.T) {
	answered := make(chan struct{})
	c := newIdentity(t).serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 10)
		w.WriteHeader(http.StatusInsufficientStorage)
		_, _ = io.WriteString(w, `{"error":"no space left on device"}`)
		_ = http.NewResponseController(w).Flush()
		close(answered)
	})
	first := bytes.NewReader(make([]byte, 64<<10)) // enough to be sent at once
	var reading atomic.Bool
	content := readerFunc(func(p []byte) (int, error) {
		if first.Len() > 0 {
			return first.Read(p)
		}
		reading.Store(true)
		defer reading.Store(false)
		<-answered
		time.Sleep(200 * time.Millisecond) // far longer than the answer takes to arrive
		return min(10, len(p)), nil
	})
	if err := c.WriteFile(t.Context(), "f", content, 1<<40, false); err == nil {
		t.Error("no error")
	}
	if reading.Load() {
		t.Error("the content is being read after the call has returned")
	}
}

func TestStalledUpload(t *testing.T) {
	own := newIdentity(t)
	for name, reads := range map[string]int64{"agent stops reading": 10, "agent never answers": 1 << 40} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan struct{})
			c := own.serve(t, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, reads)
				<-ended
			})
			defer close(ended)
			size := int64(64 << 20) // more than the buffers between the two hold
			begun := time.Now()
			err := c.WriteFile(t.Context(), "f", readerFunc(func(p []byte) (int, error) { return len(p), nil }), size, false)
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "nothing moved for") || time.Since(begun) > patience {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		})
	}
	t.Run("caller gives up", func(t *testing.T) {
		t.Parallel()
		arrived := make(chan struct{})
		c := own.serve(t, func(_ http.ResponseWriter, r *http.Request) {
			close(arrived)
			_, _ = io.Copy(io.Discard, r.Body)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		endless := readerFunc(func(p []byte) (int, error) { return len(p), nil })
		if err := c.WriteFile(ctx, "f", endless, 1<<40, false); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}
