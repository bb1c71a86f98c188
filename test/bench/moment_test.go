package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
)

// TestDeltas wants back what was taken, in files that end with a revision.
func TestDeltas(t *testing.T) {
	d := &deltas{folder: t.TempDir()}
	var want []deltaEvent
	for i := range int64(60) {
		var events []*clientv3.Event
		for sub := range i%3 + 1 {
			e := deltaEvent{Key: []byte{byte(i), byte(sub)}, ModRevision: i + 2, Delete: i%7 == 6}
			if !e.Delete {
				e.Value = bytes.Repeat([]byte{byte(i)}, 300_000)
			}
			kind := mvccpb.Event_PUT
			if e.Delete {
				kind = mvccpb.Event_DELETE
			}
			events = append(events, &clientv3.Event{Type: kind, Kv: &mvccpb.KeyValue{Key: e.Key, Value: e.Value, ModRevision: e.ModRevision}})
			want = append(want, e)
		}
		if err := d.take(events); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
	var got []deltaEvent
	for _, file := range d.files {
		events, err := readDelta(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > 0 && got[len(got)-1].ModRevision == events[0].ModRevision {
			t.Errorf("revision %d is in two files", events[0].ModRevision)
		}
		got = append(got, events...)
	}
	if !reflect.DeepEqual(got, want) || d.events != int64(len(want)) || len(d.files) < 3 || d.bytes == 0 {
		t.Errorf("%d events of %d came back out of %d files with %d bytes", len(got), len(want), len(d.files), d.bytes)
	}
	if _, err := readDelta(filepath.Join(d.folder, "none")); err == nil {
		t.Error("a file that is not there can be read")
	}
}

// TestDayMerges wants merged segments to hold what came, whatever way it was merged.
func TestDayMerges(t *testing.T) {
	const count = 60
	text, _, err := seal.GenerateIdentity(seal.X25519)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	if err := writeFile(file, text); err != nil {
		t.Fatal(err)
	}
	identities, err := seal.ReadIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	options := seal.Options{Concurrency: 1, Recipients: []seal.Recipient{identities[0].Recipient()}}
	m := &merger{lab: &lab{dir: dir}, identities: identities, options: options}
	d := &day{}
	whole := segment.NewBuilder()
	var live []stored
	for piece := range pieces(1, 1, flushTime, count) {
		b := segment.NewBuilder()
		if err := errors.Join(b.Add(piece.list, piece.at, piece.at.Add(flushTime)), whole.Add(piece.list, piece.at, piece.at.Add(flushTime))); err != nil {
			t.Fatal(err)
		}
		s, err := encodeSegment(b, options)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, piece.at.Format("150405"))
		if err := writeFile(path, string(s.sealed)); err != nil {
			t.Fatal(err)
		}
		live = append(live, stored{path, s.plain.Size})
	}
	if len(live) != count {
		t.Fatalf("%d pieces", len(live))
	}
	hour, err := m.mergeHour(d, live, 7)
	if err != nil {
		t.Fatal(err)
	}
	want, err := encodeSegment(whole, seal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if hour.plain != want.plain.Size || d.minute.segments != count/6 || d.hour.segments != 1 || d.hour.bytes == 0 || d.hour.bytes >= d.minute.bytes {
		t.Errorf("the hour has %d bytes, want %d; %+v", hour.plain, want.plain.Size, d)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "[0-9m]*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestArchiverLines wants lines to be found that came before and after somebody waits, and trouble to be an error.
func TestArchiverLines(t *testing.T) {
	a := &archiver{changed: make(chan struct{})}
	said, say := io.Pipe()
	a.reading.Go(func() { a.read(said) })
	lines := strings.SplitAfter(`{"event":"watching","first":5}
{"event":"stored","first":5,"last":7}
{"event":"stored","first":8,"last":9}
{"event":"gap","text":"lost"}
`, "\n")
	go func() {
		for _, line := range lines {
			_, _ = io.WriteString(say, line) // the reader takes all
		}
		_ = say.Close()
	}()
	line, err := a.await(t.Context(), storedTo(8))
	if err != nil || line.First != 8 || time.Since(line.At) > time.Minute {
		t.Errorf("line %+v, %v", line, err)
	}
	if line, err := a.await(t.Context(), watching); err != nil || line.First != 5 {
		t.Errorf("line %+v, %v", line, err)
	}
	if _, err := a.await(t.Context(), storedTo(10)); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("a gap is %v", err)
	}
	a.reading.Wait()
	if got := len(a.stored()); got != 2 {
		t.Errorf("%d lines of segments", got)
	}
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
