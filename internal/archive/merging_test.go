package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/archive/merge"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
)

func newIdentity(t testing.TB, kind seal.Kind) []seal.Identity {
	t.Helper()
	text, _, err := seal.GenerateIdentity(kind)
	must(t, err)
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	identities, err := seal.ReadIdentities(file)
	must(t, err)
	return identities
}

// clock is the real time, and some more.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// until polls a condition.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// keys lists the files of merge identities.
func (h *host) keys(t testing.TB) (days []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.dir, "archive", "keys"))
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %s", e.Name(), info.Mode())
		}
		days = append(days, strings.TrimSuffix(e.Name(), keySuffix))
	}
	info, err := os.Stat(filepath.Join(h.dir, "archive", "keys"))
	if err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("folder of keys: %s, %v", info.Mode(), err)
	}
	return days
}

// TestMergedArchive: a day of a real cluster in an encrypted repository, and the next one: the merged day has every event, is
// for the owner alone, and the identity that could read its parts is gone.
func TestMergedArchive(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	seen := watchAll(t, server)
	w := newWorldFor(t, nil, newIdentity(t, seal.Hybrid))
	h := w.host(t, server.Endpoint)
	var c clock
	quick := func(o *Options) {
		o.now, o.mergeEvery = c.now, 10*time.Millisecond
	}
	first := h.start(t, quick)
	first.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	for range 5 {
		first.stored(put(t, server, 20))
	}
	before := w.segments(t)
	if len(before) < 3 {
		t.Fatalf("%d segments", len(before))
	}
	today := h.keys(t)
	if len(today) == 0 || !slices.Contains([]string{c.now().UTC().Format(dayLayout), c.now().Add(-time.Minute).UTC().Format(dayLayout)}, today[0]) {
		t.Fatalf("identities of %q", today)
	}
	for _, s := range before {
		if s.Level == repository.SegmentLive && (len(s.Object.Recipients) != 2 || s.Object.Recipients[0] != w.owner[0].Recipient().KeyID()) {
			t.Errorf("%s is sealed to %q", s.Range(), s.Object.Recipients)
		}
	}
	// A second run finds the identity.
	first.stop()
	first = h.start(t, quick)
	first.stored(put(t, server, 20))
	c.forward(25 * time.Hour)
	revision := put(t, server, 20)
	first.stored(revision)
	first.await("a merged day", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool {
			return e.Merged != nil && e.Merged.Segment.Level == repository.SegmentDay && e.Merged.Inputs > 2
		})
	})
	until(t, "the end of the identity", func() bool {
		keys := h.keys(t)
		return len(keys) == 1 && keys[0] == c.now().UTC().Format(dayLayout)
	})
	first.stop()
	if n := first.count(func(e Event) bool { return e.Trouble != nil }); n > 0 {
		t.Errorf("trouble\n%s", first)
	}
	w.checkEvents(t, seen(revision))
	tops := merge.Tops(w.segments(t))
	for _, s := range tops {
		if s.Level == repository.SegmentDay && !slices.Equal(s.Object.Recipients, []string{w.owner[0].Recipient().KeyID()}) {
			t.Errorf("the day %s is sealed to %q", s.Range(), s.Object.Recipients)
		}
	}
	if list := w.timelines(t); len(list) != 1 || fmt.Sprint(list[0].Covered) != fmt.Sprintf("[1-%d]", revision) || len(tops) >= len(before) {
		t.Errorf("%d tops, covered %+v", len(tops), list)
	}
}

// TestOwnersAndRevocation: owners that change take effect while it runs, and a host that may sign no more ends, and
// publishes nothing.
func TestOwnersAndRevocation(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w := newWorldFor(t, nil, newIdentity(t, seal.X25519))
	h := w.host(t, server.Endpoint)
	r := h.start(t, func(o *Options) { o.askEvery = 10 * time.Millisecond })
	r.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	r.stored(put(t, server, 5))
	quantum := newIdentity(t, seal.Hybrid)[0].Recipient()
	must(t, w.SetRecipients(t.Context(), w.root, func([]string) ([]string, error) { return []string{quantum.String()}, nil }))
	until(t, "a segment for the new owner", func() bool {
		r.stored(put(t, server, 1))
		list := w.segments(t)
		last := list[len(list)-1]
		return last.Object.Recipients[0] == quantum.KeyID() && len(last.Object.Recipients) == 2
	})
	if keys, err := seal.ReadIdentities(filepath.Join(h.dir, "archive", "keys", h.keys(t)[0]+keySuffix)); err != nil || len(keys) != 2 {
		t.Errorf("%d identities of both kinds, %v", len(keys), err)
	}
	_, err := w.Revoke(t.Context(), w.root, h.writer.Public().Fingerprint(), false)
	must(t, err)
	if err := r.wait(); !errors.Is(err, repository.ErrRevoked) {
		t.Errorf("it ended with %v", err)
	}
}

func TestKeyring(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	k, bad, err := openKeyring(dir)
	if err != nil || len(bad) > 0 {
		t.Fatal(bad, err)
	}
	day := time.Date(2026, 11, 26, 12, 0, 0, 0, time.FixedZone("east", 14*3600)) // it is the 25th in UTC
	one, err := k.recipient(day, seal.X25519)
	must(t, err)
	again, err := k.recipient(day.Add(time.Hour+59*time.Minute), seal.X25519)
	if err != nil || again.String() != one.String() {
		t.Errorf("another identity on the same day: %v", err)
	}
	next, err := k.recipient(day.Add(2*time.Hour), seal.X25519)
	if err != nil || next.String() == one.String() {
		t.Errorf("the same identity after midnight: %v", err)
	}
	hybrid, err := k.recipient(day, seal.Hybrid)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "2026-11-20.key"), []byte("AGE-SECRET-KEY-1DAMAGED\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "note.txt"), nil, 0o600))
	k, bad, err = openKeyring(dir)
	if err != nil || len(bad) != 1 || !strings.Contains(bad[0].Error(), "2026-11-20") || strings.Contains(bad[0].Error(), "DAMAGED") {
		t.Errorf("bad %v, %v", bad, err)
	}
	if n := len(k.identities()); n != 3 {
		t.Errorf("%d identities", n)
	}
	for _, kind := range []seal.Kind{seal.X25519, seal.Hybrid} {
		if r, err := k.recipient(day, kind); err != nil || r.String() != one.String() && r.String() != hybrid.String() {
			t.Errorf("kind %s is another one after a restart: %v", kind, err)
		}
	}
	if _, err := k.recipient(time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), seal.X25519); err != nil {
		t.Errorf("in place of a damaged file: %v", err)
	}
	old := func(now time.Time) string {
		var list []string
		for _, o := range k.old(now) {
			list = append(list, fmt.Sprintf("%s:%d:%v", o.day[8:], len(o.identities), o.expired))
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	for text, want := range map[string]string{
		"2026-11-20T23:00:00Z": "", "2026-11-21T00:10:00Z": "", "2026-11-21T00:10:01Z": "20:1:false", "2026-11-26T12:00:00Z": "20:1:false 25:2:false",
		"2026-11-28T00:00:01Z": "20:1:true 25:2:false 26:1:false", "2026-12-03T00:00:01Z": "20:1:true 25:2:true 26:1:false",
	} {
		now, err := time.Parse(time.RFC3339, text)
		must(t, err)
		if got := old(now); got != want {
			t.Errorf("at %s old are %q, want %q", text, got, want)
		}
	}
	must(t, k.destroy("2026-11-25"))
	must(t, k.destroy("2026-11-25"))
	if _, err := os.Stat(k.file("2026-11-25")); !errors.Is(err, fs.ErrNotExist) || len(k.identities()) != 2 {
		t.Errorf("%v, %d identities left", err, len(k.identities()))
	}
}

// TestWhenKeysEnd: an identity goes when nothing needs it any more, and after a week whatever there is.
func TestWhenKeysEnd(t *testing.T) {
	day := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		after    time.Duration // noon
		known    func(keyID string) []repository.Segment
		spooled  bool
		unread   bool
		gone     bool
		troubled bool
	}{
		"the day goes on":           {after: 11 * time.Hour},
		"it ended just now":         {after: 12*time.Hour + 10*time.Minute},
		"nothing needs it":          {after: 12*time.Hour + 11*time.Minute, gone: true},
		"a segment is in the spool": {after: 24 * time.Hour, spooled: true},
		"a segment is to be merged": {after: 24 * time.Hour, known: func(id string) []repository.Segment {
			return []repository.Segment{segmentOf(repository.SegmentLive, id)}
		}},
		"an hour is to be merged": {after: 24 * time.Hour, known: func(id string) []repository.Segment {
			return []repository.Segment{segmentOf(repository.SegmentHour, "", id)}
		}},
		"of others":            {after: 24 * time.Hour, gone: true, known: func(string) []repository.Segment { return []repository.Segment{segmentOf(repository.SegmentHour, "x")} }},
		"the day is not there": {after: 24 * time.Hour, unread: true, troubled: true},
		"a day of long ago": {after: 24 * time.Hour, gone: true, known: func(string) []repository.Segment {
			s := segmentOf(repository.SegmentDay, "x")
			s.FirstTime, s.LastTime = day.AddDate(0, -1, 0), day.AddDate(0, -1, 0)
			return []repository.Segment{s}
		}},
		"a week":           {after: 12*time.Hour + 7*24*time.Hour, spooled: true},
		"more than a week": {after: 12*time.Hour + 7*24*time.Hour + time.Second, spooled: true, unread: true, gone: true},
	} {
		w := newWorldFor(t, nil, newIdentity(t, seal.X25519))
		h := w.host(t)
		var trouble []error
		a := &archiver{repo: w.Repository, writer: h.writer, Options: Options{Cluster: cluster, Dir: h.dir, now: func() time.Time { return day }}}
		a.Observe = func(e Event) { trouble = append(trouble, e.Trouble) }
		a.merger = merge.NewMerger(w.Repository, h.writer, cluster)
		var err error
		a.spool, err = openSpool(filepath.Join(h.dir, "spool"), 1<<20)
		must(t, err)
		a.sealing.now = a.now
		a.sealing.keys, _, err = openKeyring(filepath.Join(h.dir, "keys"))
		must(t, err)
		must(t, a.ask(t.Context()))
		to, err := a.sealing.recipients()
		must(t, err)
		if len(to) != 2 {
			t.Fatalf("%d recipients", len(to))
		}
		id := to[1].KeyID()
		if tt.known != nil {
			for _, s := range tt.known(id) {
				a.merger.Add(s)
			}
		}
		if tt.unread {
			a.merger.Add(segmentOf(repository.SegmentDay, "owner"))
		}
		if tt.spooled {
			a.spool.drafts = append(a.spool.drafts, draft{Segment: segmentOf(repository.SegmentLive, "owner", id)})
		}
		a.now = func() time.Time { return day.Add(tt.after) }
		a.destroyKeys(t.Context())
		_, err = os.Stat(a.sealing.keys.file("2026-11-26"))
		if gone := errors.Is(err, fs.ErrNotExist); gone != tt.gone || len(trouble) > 0 != tt.troubled {
			t.Errorf("%s: the identity is gone: %v, trouble %v", name, gone, trouble)
		}
	}
}

// segmentOf is of 26 November, and its data is nowhere.
func segmentOf(level int, keys ...string) repository.Segment {
	s := repository.Segment{Cluster: cluster, Timeline: "00000000000000aa", Level: level, First: 1, Last: 9,
		FirstTime: time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC), LastTime: time.Date(2026, 11, 26, 11, 0, 0, 0, time.UTC)}
	s.Object = repository.Object{Name: "clusters/prod/segments/00000000000000aa/00000000000000000001-0123456789abcdef.zst.age", Encryption: repository.Age, Recipients: keys, Size: 1}
	return s
}

// TestNoKeyNoDelay: without a disk for merge identities segments go to the owners, and that is told.
func TestNoKeyNoDelay(t *testing.T) {
	owner := newIdentity(t, seal.X25519)
	keys, _, err := openKeyring(filepath.Join(t.TempDir(), "keys"))
	must(t, err)
	must(t, os.RemoveAll(keys.folder))
	s := sealing{keys: keys, now: time.Now}
	s.set([]seal.Recipient{owner[0].Recipient()})
	if to, err := s.recipients(); err == nil || len(to) != 1 || to[0] != owner[0].Recipient() {
		t.Errorf("%v, %v", to, err)
	}
}

// TestMergingFails: a store that refuses what is merged delays nothing, each failure is told, and when it takes it again all
// is merged.
func TestMergingFails(t *testing.T) {
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	seen := watchAll(t, server)
	var faults *faultstore.Store
	w := newWorldFor(t, func(s store.Store) store.Store { faults = faultstore.New(s); return faults }, nil)
	h := w.host(t, server.Endpoint)
	var c clock
	c.forward(25 * time.Hour)
	r := h.start(t, func(o *Options) { o.now, o.mergeEvery = c.now, 10*time.Millisecond })
	r.await("the first snapshot", func(events []Event) bool { return slices.ContainsFunc(events, isSnapshot) })
	timeline := w.timelines(t)[0].ID
	faults.Add(faultstore.Fault{On: faultstore.Put, Name: fmt.Sprintf("clusters/%s/archive/%s/3/", cluster, timeline), Times: -1, Err: store.Mark(errors.New("no"), store.ErrDenied)})
	r.stored(put(t, server, 20))
	r.await("trouble", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return errors.Is(e.Trouble, store.ErrDenied) })
	})
	revision := put(t, server, 20)
	r.stored(revision)
	if n := r.count(func(e Event) bool { return e.Merged != nil }); n > 0 {
		t.Errorf("%d were merged", n)
	}
	faults.Clear()
	c.forward(2 * time.Hour)
	r.await("a merged segment", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool {
			return e.Merged != nil && e.Merged.Segment.Last >= history.Revision(revision)
		})
	})
	r.stop()
	w.checkEvents(t, seen(revision))
	if err := context.Cause(t.Context()); err != nil {
		t.Error(err)
	}
}
