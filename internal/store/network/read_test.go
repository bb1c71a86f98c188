package network_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

func TestRange(t *testing.T) {
	for _, tt := range []struct {
		from, length int64
		want         string
	}{
		{0, -1, ""},
		{0, 1, "bytes=0-0"},
		{5, 5, "bytes=5-9"},
		{5, -1, "bytes=5-"},
		{0, math.MaxInt64, fmt.Sprint("bytes=0-", math.MaxInt64-1)},
		{1, math.MaxInt64, "bytes=1-"},
		{math.MaxInt64, 1, fmt.Sprint("bytes=", math.MaxInt64, "-")},
	} {
		part := network.Range{From: tt.from, Length: tt.length}
		if got := part.Header(); got != tt.want {
			t.Errorf("%+v: %q, want %q", part, got, tt.want)
		}
		if err := part.CheckBegin(fmt.Sprintf("bytes %d-%d/*", tt.from, part.Last())); err != nil {
			t.Errorf("%+v: %v", part, err)
		}
		for _, wrong := range []string{"", "bytes 1234-", "bytes */5"} {
			if err := part.CheckBegin(wrong); part.All() != (err == nil) || err != nil && !errors.Is(err, store.ErrFinal) {
				t.Errorf("%+v, answer %q: %v", part, wrong, err)
			}
		}
	}
}

// TestReader gives no more than was asked for, whatever the server gives.
func TestReader(t *testing.T) {
	lost, calls := errors.New("lost"), ""
	r := network.Reader{
		Key:  func(name string) (string, error) { return "base/" + name, store.CheckName(name) },
		Look: func(key string) error { calls += "look " + key + "\n"; return store.ErrNotFound },
		Get: func(key string, part network.Range) (io.ReadCloser, error) {
			calls += fmt.Sprintln("get", key, part.From, part.Length)
			return io.NopCloser(io.MultiReader(strings.NewReader("content"), failing{lost})), nil
		},
		Explain: func(err error) error { return fmt.Errorf("explained: %w", err) },
	}
	for _, tt := range []struct {
		name           string
		from, length   int64
		content, calls string
		err            string // of Open or Read
	}{
		{"a", 2, 4, "cont", "get base/a 2 4\n", ""},
		{"a", 0, 7, "content", "get base/a 0 7\n", ""},
		{"a", 0, 8, "content", "get base/a 0 8\n", `read object "a": explained: lost`},
		{"a", 0, -1, "content", "get base/a 0 -1\n", `read object "a": explained: lost`},
		{"a", 5, 0, "", "look base/a\n", `open object "a": ` + store.ErrNotFound.Error()},
		{"a", -1, 2, "", "", `open object "a": range from -1`},
		{"../a", 0, -1, "", "", `open object "../a": `},
	} {
		calls = ""
		body, err := r.Open(tt.name, tt.from, tt.length)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(body)
			err = errors.Join(err, body.Close())
		}
		if string(got) != tt.content || calls != tt.calls || (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
			t.Errorf("%q from %d, length %d: %q, %v; calls %q", tt.name, tt.from, tt.length, got, err, calls)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestList leaves out what was not asked for, stops when no more is wanted, and does not follow a listing that goes back.
func TestList(t *testing.T) {
	for _, tt := range []struct {
		keys, prefix, after string
		most                int
		want, err           string
	}{
		{"a/x base/a/1 base/a/2 base/b/1", "", "", 9, "a/1 a/2 b/1", ""},
		{"base/a/1 base/a/2 base/a/3 base/b/1", "a/", "a/1", 9, "a/2 a/3", ""},
		{"base/a/1 base/a/2 base/a/3", "", "", 2, "a/1 a/2", ""},
		{"base/ base/a/ base/a//b base/c", "", "", 9, "c", ""},
		{"base/a base/c base/b", "", "", 9, "a c", `list objects "": the store does not list names in their order`},
		{"base/a base/a", "a", "", 9, "a", `list objects "a": the store does not list names in their order`},
	} {
		names, failed := []string{}, error(nil)
		for object, err := range network.List("base/", tt.prefix, tt.after, func(give network.Give) error {
			for key := range strings.SplitSeq(tt.keys, " ") {
				if more, err := give(store.Object{Name: key}); !more {
					return err
				}
			}
			return nil
		}) {
			if err != nil {
				failed = err
				continue
			}
			if names = append(names, object.Name); len(names) == tt.most {
				break
			}
		}
		if got := strings.Join(names, " "); got != tt.want || (failed == nil) != (tt.err == "") || failed != nil && failed.Error() != tt.err {
			t.Errorf("%+v: %q, %v", tt, got, failed)
		}
		if failed != nil && !errors.Is(failed, store.ErrFinal) {
			t.Errorf("%+v: %v", tt, failed)
		}
	}
}
