package replay

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/holdfast-project/holdfast/internal/history"
)

// generated gives the events of a range of revisions without holding them: each revision puts one of so many keys.
type generated struct {
	within history.Range
	keys   int64
	value  []byte
	key    []byte
	number int64 // of the key
	main   int64
}

// Next goes through the revisions of one key after the other; each key has as many as any other.
func (g *generated) Next() (history.Event, error) {
	for g.number < g.keys {
		if g.main == 0 {
			first := int64(g.within.First)
			g.main = first + ((g.number-first)%g.keys+g.keys)%g.keys
		} else {
			g.main += g.keys
		}
		if g.main > int64(g.within.Last) {
			g.number, g.main = g.number+1, 0
			continue
		}
		g.key = fmt.Appendf(g.key[:0], "/registry/things/namespace-of-this/a-name-that-is-of-usual-length-%09d", g.number)
		binary.BigEndian.PutUint64(g.value[len(g.value)/2:], uint64(g.main))
		version := (g.main-g.number)/g.keys + 1
		return history.Event{Revision: history.Revision(g.main), Key: g.key, Value: g.value, CreateRevision: history.Revision(g.main), Version: version}, nil
	}
	return history.Event{}, io.EOF
}

func (g *generated) Leases() []history.Lease { return nil }
func (g *generated) Close() error            { return nil }

// BenchmarkBackend replays a million events of 1.1 KB onto a small base: 10 updates of each of 100,000 keys, or a million keys
// with one.
func BenchmarkBackend(b *testing.B) {
	const events, segments = 1_000_000, 20
	for name, keys := range map[string]int64{"100k keys": 100_000, "1M keys": 1_000_000} {
		for _, history := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s, history %v", name, history), func(b *testing.B) {
				base := emptyBase(b)
				benchmarkBackend(b, base, generatedSegments(base, events, segments, keys), history)
			})
		}
	}
}

// BenchmarkBase takes a million keys out of a base and none out of segments.
func BenchmarkBase(b *testing.B) {
	empty, work := emptyBase(b), b.TempDir()
	path := filepath.Join(work, "base")
	_, err := Backend(b.Context(), path, empty, generatedSegments(empty, 1_000_000, 1, 1_000_000), Options{Target: empty.Info.Revision + 1_000_000, Work: work})
	must(b, err)
	benchmarkBackend(b, scanBase(b, path), nil, false)
}

func generatedSegments(base Base, events, count, keys int64) []Segment {
	var segments []Segment
	first := base.Info.Revision + 1
	rnd := rand.New(rand.NewPCG(1, 1))
	value := make([]byte, 1000)
	for i := range value {
		value[i] = byte(rnd.Uint32())
	}
	for range count {
		within := history.Range{First: first, Last: first + history.Revision(events/count) - 1}
		first = within.Last + 1
		segments = append(segments, Segment{Range: within, Open: func(context.Context) (Events, error) {
			return &generated{within: within, keys: keys, value: slices.Clone(value)}, nil
		}})
	}
	return segments
}

func benchmarkBackend(b *testing.B, base Base, segments []Segment, history bool) {
	work := b.TempDir()
	target := base.Info.Revision
	if len(segments) > 0 {
		target = segments[len(segments)-1].Range.Last
	}
	var last Result
	stop := make(chan struct{})
	peak := watchMemory(stop)
	cpu := cpuTime(b)
	for b.Loop() {
		path := filepath.Join(work, "db")
		var err error
		last, err = Backend(b.Context(), path, base, segments, Options{Target: target, KeepHistory: history, Work: work})
		must(b, err)
		must(b, os.Remove(path))
	}
	used := cpuTime(b) - cpu
	close(stop)
	in := float64(last.Events+last.BaseRecords) * float64(b.N)
	b.ReportMetric(in/b.Elapsed().Seconds(), "in/s")
	b.ReportMetric(in/used.Seconds(), "in/cpu-s")
	b.ReportMetric(float64(<-peak)/(1<<20), "anon-MiB")
	b.ReportMetric(float64(last.Records)*float64(b.N)/b.Elapsed().Seconds(), "out/s")
	b.ReportMetric(last.SegmentsTime.Seconds(), "segments-s")
	b.ReportMetric(last.BaseTime.Seconds(), "base-s")
	b.ReportMetric(last.WriteTime.Seconds(), "write-s")
}

// watchMemory gives the greatest anonymous memory of the process.
func watchMemory(stop chan struct{}) chan int64 {
	peak := make(chan int64, 1)
	runtime.GC()
	go func() {
		most := int64(0)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-tick.C:
				status, _ := os.ReadFile("/proc/self/status")
				for line := range strings.Lines(string(status)) {
					var kb int64
					if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kb); n == 1 {
						most = max(most, kb<<10)
					}
				}
			}
		}
	}()
	return peak
}

// BenchmarkWriters writes a million records of 1.1 KB with the page writer, and as bbolt does it.
func BenchmarkWriters(b *testing.B) {
	const records = 1_000_000
	value := make([]byte, 1070)
	key := func(to []byte, i int) []byte { return appendKey(to[:0], place{main: int64(i + 2)}) }
	for name, write := range map[string]func(path string){
		"pages": func(path string) {
			file, err := os.Create(path)
			must(b, err)
			w, err := newPageWriter(file, 4096)
			must(b, err)
			var k []byte
			for i := range records {
				k = key(k, i)
				room, err := w.add(k, len(value))
				must(b, err)
				copy(room, value)
			}
			must(b, w.finish(file))
			must(b, file.Close())
		},
		"bbolt": func(path string) {
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, NoGrowSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: 2 << 30})
			must(b, err)
			for from := 0; from < records; {
				must(b, db.Update(func(tx *bbolt.Tx) error {
					bucket, err := tx.CreateBucketIfNotExists(bucketKey)
					must(b, err)
					bucket.FillPercent = 1
					for size := 0; size < 32<<20 && from < records; from++ {
						must(b, bucket.Put(key(nil, from), value))
						size += len(value)
					}
					return nil
				}))
			}
			must(b, db.Close())
		},
	} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "db")
			stop := make(chan struct{})
			peak := watchMemory(stop)
			cpu := cpuTime(b)
			for b.Loop() {
				write(path)
				must(b, os.Remove(path))
			}
			b.ReportMetric(records*float64(b.N)/(cpuTime(b)-cpu).Seconds(), "records/cpu-s")
			close(stop)
			b.ReportMetric(float64(<-peak)/(1<<20), "anon-MiB")
		})
	}
}
