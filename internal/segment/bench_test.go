package segment

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// load is a history in batches, as watch responses bring them.
type load struct {
	name    string
	batches []batch
	events  int
	bytes   int64 // of keys and values
}

func (l *load) add(events []history.Event) {
	at := day.Add(time.Duration(len(l.batches)) * 25 * time.Millisecond)
	l.batches = append(l.batches, batch{events, at, at})
	l.events += len(events)
	for _, e := range events {
		l.bytes += int64(len(e.Key) + len(e.Value))
	}
}

// loads are many small events, and what a Kubernetes cluster writes.
func loads(tiny, objects int) []load {
	small, kube := load{name: "small"}, load{name: "kubernetes"}
	for i := 0; i < tiny; i += 4 {
		var events []history.Event
		for j := range 4 {
			revision, n := history.Revision(i+j+1), (i+j)*7919%(tiny/5)
			events = append(events, history.Event{
				Revision: revision, Key: fmt.Appendf(nil, "/registry/leases/ns-%d/name-%05d", n%50, n), Value: fmt.Appendf(nil, "value of %d", i),
				CreateRevision: 1 + revision/2, Version: int64(1 + i/100),
			})
		}
		small.add(events)
	}
	type state struct{ created, version int64 }
	alive, revision := map[string]state{}, history.Revision(0)
	for op := range kubeload.New(1, objects).Ops() {
		revision++
		e := history.Event{Revision: revision, Key: []byte(op.Key), Tombstone: op.Value == nil}
		if s := alive[op.Key]; e.Tombstone {
			delete(alive, op.Key)
		} else {
			if s.version++; s.version == 1 {
				s.created = int64(revision)
			}
			alive[op.Key] = s
			e.Value, e.CreateRevision, e.Version, e.Lease = op.Value, history.Revision(s.created), s.version, int64(op.LeaseSlot)
		}
		kube.add([]history.Event{e})
	}
	return []load{small, kube}
}

// per tells what one event costs, and how many bytes of keys and values go through in a second.
func (l *load) per(b *testing.B) {
	b.SetBytes(l.bytes)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(l.events), "ns/event")
}

// BenchmarkBuild writes a segment for each 8 MiB, as an archiver does, all with one Builder. "add" does all but that.
func BenchmarkBuild(b *testing.B) {
	for _, l := range loads(300_000, 8000) {
		for _, name := range []string{l.name, l.name + "/add"} {
			b.Run(name, func(b *testing.B) {
				builder := NewBuilder()
				b.ReportAllocs()
				for b.Loop() {
					for i, x := range l.batches {
						must(b, builder.Add(x.events, x.from, x.to))
						if builder.Size() < 8<<20 && i < len(l.batches)-1 {
							continue
						}
						if name == l.name {
							_, err := builder.Encode(io.Discard, nil)
							must(b, err)
						}
						builder.Reset()
					}
				}
				l.per(b)
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, l := range loads(1_000_000, 20_000) {
		segment, _ := encoded(b, builder(b, l.batches), nil)
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				readThrough(b, bytes.NewReader(segment), int64(len(segment)))
			}
			l.per(b)
			b.ReportMetric(float64(sealedSize(b, segment))/float64(l.events), "stored-B/event")
			b.ReportMetric(float64(len(segment))/float64(l.events), "plain-B/event")
		})
	}
}

// readThrough keeps nothing.
func readThrough(tb testing.TB, src io.Reader, size int64) *Reader {
	r, err := NewReader(src, size)
	must(tb, err)
	for {
		if _, err := r.Next(); err == io.EOF {
			return r
		} else if err != nil {
			tb.Fatal(err)
		}
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// sealedSize is what is left of a segment in a store.
func sealedSize(b *testing.B, segment []byte) int64 {
	var n counter
	w, err := seal.NewWriter(&n, seal.Options{})
	must(b, err)
	_, err = w.Write(segment)
	must(b, err)
	must(b, w.Close())
	return int64(n)
}

// BenchmarkMerge makes one of 60 segments.
func BenchmarkMerge(b *testing.B) {
	for _, l := range loads(300_000, 12_000) {
		var parts [][]byte
		for i := range 60 {
			n := len(l.batches)
			part, _ := encoded(b, builder(b, l.batches[n*i/60:n*(i+1)/60]), nil)
			parts = append(parts, part)
		}
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := Merge(io.Discard, open(b, parts...))
				must(b, err)
			}
			l.per(b)
		})
	}
}

// TestReaderMemory reads a segment of a million revisions, each with a time of its own, and long values among them. What
// a Reader takes is its buffer, the proof with 4 bytes for each revision, and 2 or 3 for its time.
func TestReaderMemory(t *testing.T) {
	const revisions = 1_000_000
	b := NewBuilder()
	long := make([]byte, 3<<19)
	for i := range history.Revision(revisions) {
		e := put(i+1, 0, fmt.Sprintf("/registry/pods/%08d", i*7919%revisions))
		if i%100_000 == 7 {
			e.Value = long
		}
		at := day.Add(time.Duration(i) * 20 * time.Millisecond)
		must(t, b.Add([]history.Event{e}, at, at))
	}
	segment, _ := encoded(t, b, nil)
	*b = Builder{}
	before := heap()
	r := readThrough(t, bytes.NewReader(segment), int64(len(segment)))
	taken := heap() - before
	t.Logf("%d bytes for a segment of %d with %d revisions", taken, len(segment), revisions)
	if most := int64(4<<20 + 7*revisions); taken > most {
		t.Errorf("a Reader takes %d bytes, want no more than %d", taken, most)
	}
	if s := r.Summary(); s.Events != revisions || s.Times.Len() != revisions {
		t.Errorf("%d events, %d spans", s.Events, s.Times.Len())
	}
	runtime.KeepAlive(segment)
}

// heap is what is in use, without rubbish.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
