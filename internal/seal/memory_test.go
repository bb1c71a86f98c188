package seal

import (
	"bytes"
	"io"
	"runtime"
	"testing"
)

// live gives the bytes of memory that are in use.
func live() int64 {
	runtime.GC()
	runtime.GC() // what others make and leave while the first one runs counts as used for it
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// sampled is a destination that looks at the memory each 4 MiB.
type sampled struct {
	n, next int
	most    int64
}

func (s *sampled) Write(p []byte) (int, error) {
	if s.n += len(p); s.n >= s.next {
		s.next = s.n + 4<<20
		s.most = max(s.most, live())
	}
	return len(p), nil
}

// TestWriterMemory holds the documented bound, with content that does not compress and so needs the most.
func TestWriterMemory(t *testing.T) {
	o := newOwner(t, X25519)
	piece := noise(1 << 20)
	before := live()
	dst := &sampled{next: 4 << 20}
	w, err := NewWriter(dst, Options{Concurrency: 2, Recipients: []Recipient{o.recipient}})
	if err != nil {
		t.Fatal(err)
	}
	for range 64 {
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	used := dst.most - before
	t.Logf("a Writer with 2 workers uses %.1f MiB", float64(used)/(1<<20))
	if used > 40<<20 {
		t.Errorf("want at most 40 MiB")
	}
	runtime.KeepAlive(piece)
}

// TestReaderMemory holds the bound of ordinary objects and of the worst that can be made: frames that do not compress.
func TestReaderMemory(t *testing.T) {
	for name, tt := range map[string]struct{ frame, frames, most int }{ // most in MiB
		"ordinary": {DefaultFrame, 9, 40}, "worst": {MaxFrame, 6, 150},
	} {
		one, _ := parts(t, sealed(t, noise(tt.frame), Options{FrameSize: tt.frame}))
		_, e, err := readFrame(&input{r: bytes.NewReader(one[0][4:]), offset: 4}, nil, MaxFrame)
		if err != nil {
			t.Fatal(err)
		}
		// The same frame again and again, so that the object itself takes no memory.
		var object []io.Reader
		index := indexStart(tt.frames)
		for range tt.frames {
			object = append(object, bytes.NewReader(one[0]))
			index = e.append(index)
		}
		object = append(object, bytes.NewReader(append(index, indexEnd(tt.frames)...)))
		before := live()
		r, err := NewReader(io.MultiReader(object...), ReaderOptions{Concurrency: 2, PlainSize: int64(tt.frame * tt.frames)})
		if err != nil {
			t.Fatal(err)
		}
		dst := &sampled{next: tt.frame}
		if _, err := io.Copy(dst, r); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		used := dst.most - before
		t.Logf("a Reader with 2 workers of the %s object uses %.1f MiB", name, float64(used)/(1<<20))
		if used > int64(tt.most)<<20 {
			t.Errorf("want at most %d MiB", tt.most)
		}
		runtime.KeepAlive(one)
	}
}

// TestSmallObjectsAreCheap seals and reads a few bytes without the memory of a large object.
func TestSmallObjectsAreCheap(t *testing.T) {
	plain := text(2000)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := m.TotalAlloc
	const n = 20
	for range n {
		if got, err := unsealed(bytes.NewReader(sealed(t, plain, Options{})), ReaderOptions{PlainSize: -1}); err != nil || len(got) != len(plain) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&m)
	each := (m.TotalAlloc - before) / n
	t.Logf("%d bytes sealed and unsealed take %d KiB", len(plain), each>>10)
	if each > 8<<20 {
		t.Error("want at most 8 MiB")
	}
}

// TestSharedMemory writes objects of many sizes one after the other, some of which are given up, in one memory: each is what a
// Writer of its own makes, and together they take hardly more than one.
func TestSharedMemory(t *testing.T) {
	sizes := []int{1, 10_000, 3 << 20, 0, 500, 1 << 20, 1<<20 + 1, 70_000}
	content := noise(3 << 20)
	for _, workers := range []int{1, 2} {
		var memory Memory
		for i := range 4 * len(sizes) {
			options := Options{Concurrency: workers, FrameSize: 1 << 20, Fast: i%5 == 4} // another kind now and then
			plain := content[:sizes[i%len(sizes)]]
			want := sealed(t, plain, options)
			options.Memory = &memory
			if i%7 == 3 {
				w, err := NewWriter(io.Discard, options)
				if err == nil {
					_, err = w.Write(plain)
				}
				if err != nil {
					t.Fatal(err)
				}
				w.Abort()
				if memory.has && memory.kind == w.kind {
					t.Error("the memory of a Writer that was given up is used again")
				}
			}
			if got := sealed(t, plain, options); !bytes.Equal(got, want) {
				t.Fatalf("object %d of %d bytes is another one in shared memory", i, len(plain))
			}
		}
	}
	var memory Memory
	one := func() { sealed(t, content[:10_000], Options{Concurrency: 1, FrameSize: 1 << 20, Memory: &memory}) }
	one()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const objects = 100
	for range objects {
		one()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / objects; each > 100_000 {
		t.Errorf("a small object leaves %d bytes of garbage", each)
	}
}
