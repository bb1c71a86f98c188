// Package storetest is the one suite of tests that every driver of a store passes. It is for tests only.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Run tests the stores that open makes, each of which is empty.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"RoundTrip", roundTrip}, {"PutIfAbsent", putIfAbsent}, {"OneWriterWins", oneWriterWins}, {"GivenUp", givenUp},
		{"Parts", parts}, {"Absent", absent}, {"Order", order}, {"ManyNames", manyNames}, {"StrangeNames", strangeNames},
		{"Delete", deletes}, {"Lock", lock},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, &bench{t: t, Store: open(t)}) })
	}
}

// large is more than the least part of a multipart upload, in bytes.
const large = 6 << 20

type bench struct {
	store.Store
	t *testing.T
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) put(name string, content []byte) {
	b.t.Helper()
	object, err := b.Put(b.t.Context(), name, bytes.NewReader(content), store.PutOptions{})
	b.must(err)
	if object.Name != name || object.Size != int64(len(content)) {
		b.t.Errorf("put %q of %d bytes gives %+v", name, len(content), object)
	}
}

func (b *bench) get(name string, from, length int64) []byte {
	b.t.Helper()
	body, err := b.Open(b.t.Context(), name, from, length)
	b.must(err)
	content, err := io.ReadAll(body)
	b.must(errors.Join(err, body.Close()))
	return content
}

// wantContent compares an object with what it should be, piece by piece: under the race detector memory is slow.
func (b *bench) wantContent(name string, want io.Reader) {
	b.t.Helper()
	body, err := b.Open(b.t.Context(), name, 0, -1)
	b.must(err)
	defer func() { b.must(body.Close()) }()
	got, wanted := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := 0; ; at += len(got) {
		n, err := io.ReadFull(body, got)
		m, wantErr := io.ReadFull(want, wanted)
		if !bytes.Equal(got[:n], wanted[:m]) || !errors.Is(err, wantErr) {
			b.t.Errorf("object %q is another from byte %d on, or of another length: %v", name, at, err)
			return
		}
		if wantErr != nil {
			return
		}
	}
}

// repeated gives the same bytes for ever.
type repeated []byte

func (r repeated) Read(p []byte) (int, error) { return copy(p, r), nil }

func (b *bench) names(prefix, after string) []string {
	b.t.Helper()
	names := []string{}
	for object, err := range b.List(b.t.Context(), prefix, after) {
		b.must(err)
		names = append(names, object.Name)
	}
	return names
}

func (b *bench) wantNames(prefix, after string, want ...string) {
	b.t.Helper()
	if got := b.names(prefix, after); !slices.Equal(got, want) {
		b.t.Errorf("list %q after %q: %q, want %q", prefix, after, got, want)
	}
}

// BytesOf gives content that does not repeat, and no other size has.
func BytesOf(size int) []byte {
	seed := [32]byte{}
	binary.LittleEndian.PutUint64(seed[:], uint64(size))
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(content) // it cannot fail
	return content
}

func roundTrip(t *testing.T, b *bench) {
	for _, size := range []int{0, 1, 5 << 20, 40<<20 + 7} {
		name, content := fmt.Sprintf("a/b/%d", size), BytesOf(size)
		b.put(name, content)
		b.wantContent(name, bytes.NewReader(content))
		object, err := b.Stat(t.Context(), name)
		b.must(err)
		if object.Name != name || object.Size != int64(size) || time.Since(object.Modified).Abs() > time.Hour {
			t.Errorf("stat gives %+v", object)
		}
	}
}

func putIfAbsent(t *testing.T, b *bench) {
	for _, size := range []int{10, large} {
		name, first := fmt.Sprint("x", size), BytesOf(size)
		b.put(name, first)
		if _, err := b.Put(t.Context(), name, bytes.NewReader([]byte("other")), store.PutOptions{}); !errors.Is(err, store.ErrExists) {
			t.Errorf("second put: %v", err)
		}
		b.wantContent(name, bytes.NewReader(first))
	}
}

func oneWriterWins(t *testing.T, b *bench) {
	for _, size := range []int{100, large} {
		name := fmt.Sprint("race/", size)
		writer := func(i int) io.Reader {
			return io.LimitReader(repeated(bytes.Repeat([]byte{byte(i)}, 64<<10)), int64(size))
		}
		var wins, winner atomic.Int32
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				switch _, err := b.Put(t.Context(), name, writer(i), store.PutOptions{}); {
				case err == nil:
					wins.Add(1)
					winner.Store(int32(i))
				case !errors.Is(err, store.ErrExists):
					t.Errorf("writer %d: %v", i, err)
				}
			})
		}
		group.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d of 8 writers won", wins.Load())
		}
		b.wantContent(name, writer(int(winner.Load())))
	}
}

func givenUp(t *testing.T, b *bench) {
	broken := errors.New("the source broke")
	for _, size := range []int{0, 100, large} {
		content := io.MultiReader(bytes.NewReader(BytesOf(size)), iotest.ErrReader(broken))
		if _, err := b.Put(t.Context(), "broken", content, store.PutOptions{}); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", size, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		content = io.MultiReader(bytes.NewReader(BytesOf(size)), ReaderFunc(func([]byte) (int, error) {
			cancel()
			return 0, io.EOF
		}), bytes.NewReader(BytesOf(size+1)))
		if _, err := b.Put(ctx, "broken", content, store.PutOptions{}); err == nil {
			t.Errorf("cancelled after %d bytes it goes through", size)
		}
		cancel()
	}
	b.wantNames("", "")
	if _, err := b.Stat(t.Context(), "broken"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat: %v", err)
	}
	b.put("broken", []byte("now it works"))
}

// ReaderFunc is a reader that is one function.
type ReaderFunc func([]byte) (int, error)

// Read calls it.
func (f ReaderFunc) Read(p []byte) (int, error) { return f(p) }

func parts(t *testing.T, b *bench) {
	content := BytesOf(100_000)
	b.put("o", content)
	for _, part := range []struct{ from, length, wantFrom, wantTo int64 }{
		{0, 10, 0, 10}, {5, 0, 5, 5}, {99_999, 1, 99_999, 100_000}, {99_990, -1, 99_990, 100_000}, {99_990, 1000, 99_990, 100_000}, {0, -1, 0, 100_000},
	} {
		if got := b.get("o", part.from, part.length); !bytes.Equal(got, content[part.wantFrom:part.wantTo]) {
			t.Errorf("from %d, length %d: %d bytes", part.from, part.length, len(got))
		}
	}
}

func absent(t *testing.T, b *bench) {
	b.put("folder/o", []byte("x"))
	for _, name := range []string{"none", "folder", "folder/o/below", "none/none"} {
		if _, err := b.Stat(t.Context(), name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("stat %q: %v", name, err)
		}
		if body, err := b.Open(t.Context(), name, 0, -1); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("open %q: %v, %v", name, body, err)
		}
	}
}

func order(t *testing.T, b *bench) {
	all := []string{"a", "a-", "a-b/x", "a.", "a/b", "a/b.c", "a/b0", "a/c/d", "a/c/e", "a0", "b", "c/d/e/f"}
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(all)) {
		if all[i] == "a" || all[i] == "b" {
			continue // a file system cannot have a file where a folder is
		}
		b.put(all[i], []byte(all[i]))
	}
	all = slices.DeleteFunc(all, func(name string) bool { return name == "a" || name == "b" })
	b.wantNames("", "", all...)
	for _, prefix := range []string{"a", "a/", "a/b", "a/c/", "a/c/d", "c/d", "b", "z", "a-"} {
		var want []string
		for _, name := range all {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		b.wantNames(prefix, "", want...)
	}
	for i, after := range all {
		b.wantNames("", after, all[i+1:]...)
	}
	b.wantNames("", "a/c", "a/c/d", "a/c/e", "a0", "c/d/e/f")
	b.wantNames("", "a/c0", "a0", "c/d/e/f")
	b.wantNames("a/", "a/b.c", "a/b0", "a/c/d", "a/c/e")
}

func manyNames(t *testing.T, b *bench) {
	const many = 1100
	var want []string
	var group sync.WaitGroup
	for i := range many {
		name := fmt.Sprintf("many/%05d", i)
		want = append(want, name)
		if i%100 == 0 {
			group.Wait()
		}
		group.Go(func() {
			if _, err := b.Put(t.Context(), name, strings.NewReader("x"), store.PutOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	b.wantNames("many/", "", want...)
	b.wantNames("many/", want[1050], want[1051:]...)
	// A caller may stop at any time.
	for range b.List(t.Context(), "many/", "") {
		break
	}
}

func strangeNames(t *testing.T, b *bench) {
	for _, name := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.part-1", "a b", "a\nb", "a\x00b", "ä", `a\b`, "a:b", "a*",
		strings.Repeat("x", 201), strings.Repeat("x/", 451) + "x",
	} {
		if _, err := b.Put(t.Context(), name, strings.NewReader("x"), store.PutOptions{}); err == nil {
			t.Errorf("object %q was put", name)
		}
	}
	b.wantNames("", "")
	good := "aZ09._-=/" + strings.Repeat("x", 200) + "/" + strings.Repeat("y/", 300) + "z"
	b.put(good, []byte("x"))
	b.wantNames("", "", good)
}

func deletes(t *testing.T, b *bench) {
	deleter, can := b.Store.(store.Deleter)
	if !can {
		t.Fatal("the store cannot delete")
	}
	b.put("a/one", []byte("1"))
	b.put("a/two", []byte("2"))
	b.must(deleter.Delete(t.Context(), "a/one"))
	b.must(deleter.Delete(t.Context(), "a/one"))
	b.must(deleter.Delete(t.Context(), "none/none"))
	b.wantNames("", "", "a/two")
	b.put("a/one", []byte("again"))
}
