package merge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// world is a repository with live segments of one day, and keys.
type world struct {
	*repository.Repository
	store  *faultstore.Store
	root   repository.Key
	writer *repository.Writer
	// owner opens everything, ours what is to be merged.
	owner, ours []seal.Identity
	next        history.Revision
	puts        map[string]int64 // versions of keys
	dir         string
}

func newIdentity(t testing.TB, kind seal.Kind) []seal.Identity {
	t.Helper()
	secret, _, err := seal.GenerateIdentity(kind)
	must(t, err)
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(secret), 0o600))
	identities, err := seal.ReadIdentities(file)
	must(t, err)
	return identities
}

func newWorld(t testing.TB, encryption repository.Encryption) *world {
	t.Helper()
	w := &world{store: faultstore.New(mem.New()), next: 1, puts: map[string]int64{}, dir: t.TempDir()}
	var err error
	w.root, err = repository.NewKey()
	must(t, err)
	var owners []seal.Recipient
	if encryption == repository.Age {
		w.owner, w.ours = newIdentity(t, seal.X25519), newIdentity(t, seal.X25519)
		owners = append(owners, w.owner[0].Recipient())
	}
	w.Repository, err = repository.Init(t.Context(), w.store, w.root, encryption, owners)
	must(t, err)
	w.writer, err = repository.OpenWriter(filepath.Join(w.dir, "signer"))
	must(t, err)
	must(t, w.Enroll(t.Context(), w.root, w.writer.Public(), repository.RoleBackup, "test"))
	return w
}

// options are those of the archiver, long after the day.
func (w *world) options() Options {
	return Options{Identities: w.ours, Further: true, Dir: w.dir, Now: func() time.Time { return at("28 00:00:00") }}
}

// live stores a segment of so many revisions, one a second from a time on.
func (w *world) live(t testing.TB, n int, when string) repository.Segment {
	t.Helper()
	b := segment.NewBuilder()
	for i := range n {
		var events []history.Event
		for sub := range 1 + int64(w.next)%3 {
			key := fmt.Sprintf("/registry/pods/p%d", (int64(w.next)+7*sub)%10)
			w.puts[key]++
			events = append(events, history.Event{Revision: w.next, Sub: sub, Key: []byte(key), Value: bytes.Repeat([]byte{byte(w.next)}, 50),
				CreateRevision: 1, Version: w.puts[key], Lease: int64(w.next) % 2 * 77})
		}
		came := at(when).Add(time.Duration(i) * time.Second)
		must(t, b.Add(events, came, came))
		w.next++
	}
	var extra []seal.Recipient
	for _, identity := range w.ours {
		extra = append(extra, identity.Recipient())
	}
	to, err := w.SegmentSealTo(t.Context(), extra...)
	must(t, err)
	var ids []string
	for _, r := range to {
		ids = append(ids, r.KeyID())
	}
	var out bytes.Buffer
	sealer, err := seal.NewWriter(&out, seal.Options{Recipients: to})
	must(t, err)
	summary, err := b.Encode(sealer, []history.Lease{{ID: 77, TTL: 30}})
	must(t, errors.Join(err, sealer.Close()))
	sum := sha256.Sum256(out.Bytes())
	s := repository.Segment{Cluster: "prod", Timeline: line, First: summary.First, Last: summary.Last, Events: summary.Events, Leases: 1,
		FirstTime: at(when), LastTime: at(when).Add(time.Duration(n-1) * time.Second), Exact: true, Term: 5,
		Plain: repository.Plain{Size: summary.Size, SHA256: hex.EncodeToString(summary.SHA256[:])}, Started: time.Now(), Completed: time.Now()}
	s.Object, err = w.NewSegmentData("prod", line, s.First, ids)
	must(t, err)
	s.Object.Size, s.Object.SHA256 = int64(out.Len()), hex.EncodeToString(sum[:])
	s.Object, err = w.PutSegmentData(t.Context(), s.Object, bytes.NewReader(out.Bytes()), time.Time{})
	must(t, err)
	s, err = w.PublishSegment(t.Context(), w.writer, s)
	must(t, err)
	return s
}

// day is two hours with some minutes each: 14 live segments of 35 revisions.
func (w *world) day(t testing.TB) (list []repository.Segment) {
	for _, hour := range []string{"10", "11"} {
		for minute := range 3 {
			list = append(list, w.live(t, 3, fmt.Sprintf("%s:%02d:05", hour, minute)), w.live(t, 2, fmt.Sprintf("%s:%02d:40", hour, minute)))
		}
		list = append(list, w.live(t, 1, hour+":30:00"))
	}
	return list
}

// content reads a segment, events and head, in a form that can be compared.
func (w *world) content(t testing.TB, s repository.Segment, identities []seal.Identity) []string {
	t.Helper()
	content, err := w.OpenSegment(t.Context(), s, identities)
	must(t, err)
	defer func() { must(t, content.Close()) }()
	reader, err := segment.NewReader(content, s.Plain.Size)
	must(t, err)
	var list []string
	for span := range reader.Head().Times.All() {
		list = append(list, fmt.Sprint("span ", span.Range, span.From, span.To))
	}
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		list = append(list, fmt.Sprintf("%+v", e))
	}
	slices.Sort(list)
	return list
}

func (w *world) contents(t testing.TB, list []repository.Segment, identities []seal.Identity) (all []string) {
	for _, s := range list {
		all = append(all, w.content(t, s, identities)...)
	}
	slices.Sort(all)
	return all
}

// top are the segments that nothing higher holds.
func (w *world) top(t testing.TB) []repository.Segment {
	t.Helper()
	segments, strays, err := Look(t.Context(), w.Repository, "prod")
	must(t, err)
	if len(strays) > 0 {
		t.Errorf("strays %v", strays)
	}
	return Tops(segments)
}

// all merges until nothing is due.
func (w *world) all(t testing.TB, o Options, wholeDays bool) (results []Result) {
	t.Helper()
	m := NewMerger(w.Repository, w.writer, "prod")
	_, err := m.Look(t.Context(), o)
	must(t, err)
	for {
		due := m.Due(o, wholeDays)
		if len(due) == 0 {
			return results
		}
		for _, one := range due {
			r, err := m.Do(t.Context(), one, o)
			must(t, err)
			results = append(results, r)
		}
	}
}

// TestMergeAll: minute by minute, hour by hour, and the day: all events and times are there at each step, whom it is sealed to
// is right, and nothing is left on the disk.
func TestMergeAll(t *testing.T) {
	for _, encryption := range []repository.Encryption{repository.Age, repository.None} {
		t.Run(string(encryption), func(t *testing.T) {
			w := newWorld(t, encryption)
			lives := w.day(t)
			want := w.contents(t, lives, w.owner)
			for _, step := range []struct {
				now    string
				levels string
			}{{"10:03:30", "[1 1 1 0 0 0 0 0 0 0 0]"}, {"11:00:15", "[2 0 0 0 0 0 0 0]"}, {"11:59:59", "[2 1 1 1 0]"}, {"12:30:00", "[2 2]"}, {"27 01:00:00", "[3]"}} {
				o := w.options()
				o.Now = func() time.Time { return at(step.now) }
				for _, r := range w.all(t, o, false) {
					s := r.Segment
					if r.Taken || r.Opened != (encryption == repository.None || s.Level < repository.SegmentDay) {
						t.Errorf("%s: %+v", step.now, r)
					}
					if want := len(w.owner) + len(w.ours); encryption == repository.Age && s.Level == repository.SegmentDay && (len(s.Object.Recipients) != 1 || s.Object.Recipients[0] != w.owner[0].Recipient().KeyID()) ||
						s.Level < repository.SegmentDay && len(s.Object.Recipients) != want {
						t.Errorf("level %d is sealed to %q", s.Level, s.Object.Recipients)
					}
					if s.Term != 5 || !s.Exact || s.Leases != 1 || s.Inputs < 2 {
						t.Errorf("%+v", s)
					}
				}
				tops := w.top(t)
				var levels []int
				for _, s := range tops {
					levels = append(levels, s.Level)
				}
				if fmt.Sprint(levels) != step.levels {
					t.Errorf("%s: levels %v, want %s", step.now, levels, step.levels)
				}
				if diff := cmp.Diff(want, w.contents(t, tops, w.owner)); diff != "" {
					t.Errorf("%s: %s", step.now, diff)
				}
			}
			if encryption == repository.Age {
				if _, err := w.OpenSegment(t.Context(), w.top(t)[0], w.ours); !errors.Is(err, seal.ErrNoIdentity) {
					t.Errorf("the merge identity opens a day: %v", err)
				}
			}
			if left, err := filepath.Glob(filepath.Join(w.dir, "merge-*")); err != nil || len(left) > 0 {
				t.Errorf("left %q, %v", left, err)
			}
		})
	}
}

// TestWithOwners is the command: whole days, and nothing for the key that is gone.
func TestWithOwners(t *testing.T) {
	w := newWorld(t, repository.Age)
	want := w.contents(t, w.day(t), w.owner)
	o := Options{Identities: w.owner, Dir: w.dir, Now: func() time.Time { return at("23:00:00") }}
	if done := w.all(t, o, true); len(done) > 0 {
		t.Errorf("merged of a day that goes on: %+v", done)
	}
	o.Now = func() time.Time { return at("27 00:01:00") }
	done := w.all(t, o, true)
	if len(done) != 1 || !done[0].Opened || done[0].Segment.Level != repository.SegmentDay {
		t.Errorf("%+v", done)
	}
	if diff := cmp.Diff(want, w.contents(t, w.top(t), w.owner)); diff != "" {
		t.Error(diff)
	}
	o.Identities = newIdentity(t, seal.X25519)
	if o.CanOpen(done[0].Segment) || len(w.all(t, o, true)) > 0 {
		t.Error("a stranger's key opens it")
	}
}

// TestOwnersChangeKind: to owners with another kind of key minutes are sealed without the merge identity, or with one of that
// kind.
func TestOwnersChangeKind(t *testing.T) {
	w := newWorld(t, repository.Age)
	w.day(t)
	quantum := newIdentity(t, seal.Hybrid)
	must(t, w.SetRecipients(t.Context(), w.root, func([]string) ([]string, error) { return []string{quantum[0].Recipient().String()}, nil }))
	o := w.options()
	o.Now = func() time.Time { return at("10:01:30") }
	one := w.all(t, o, false)
	if len(one) != 1 || !slices.Equal(one[0].Segment.Object.Recipients, []string{quantum[0].Recipient().KeyID()}) || one[0].Opened {
		t.Errorf("%+v", one)
	}
	merge := newIdentity(t, seal.Hybrid)
	o.Identities = append(o.Identities, merge...)
	o.Now = func() time.Time { return at("10:02:30") }
	two := w.all(t, o, false)
	if len(two) != 1 || !slices.Equal(two[0].Segment.Object.Recipients, []string{quantum[0].Recipient().KeyID(), merge[0].Recipient().KeyID()}) {
		t.Errorf("%+v", two)
	}
}

// TestFaults fails each call to the store in each way: whatever happens, what is stored holds all events, an error comes or
// the merge is done, and another try succeeds.
func TestFaults(t *testing.T) {
	for _, op := range []faultstore.Op{faultstore.Put, faultstore.Open, faultstore.Stat} {
		for _, kind := range []faultstore.Kind{faultstore.Fail, faultstore.Lose, faultstore.Cut, faultstore.Short} {
			for skip := 0; ; skip++ {
				w := newWorld(t, repository.Age)
				want := w.contents(t, append([]repository.Segment{}, w.live(t, 3, "10:00:05"), w.live(t, 40, "10:00:10")), w.owner)
				m := NewMerger(w.Repository.Fresh(), w.writer, "prod")
				_, err := m.Look(t.Context(), w.options())
				must(t, err)
				due := m.Due(w.options(), false)
				before := w.store.Calls(op)
				w.store.Add(faultstore.Fault{On: op, Skip: skip, Do: kind, At: 100, Err: store.Mark(errors.New("fault"), store.ErrDenied)})
				result, err := m.Do(t.Context(), due[0], w.options())
				last := w.store.Calls(op)-before <= skip
				w.store.Clear()
				what := fmt.Sprintf("%s, kind %d, call %d", op, kind, skip)
				if err == nil {
					checked := w.content(t, result.Segment, w.owner)
					if diff := cmp.Diff(want, checked); diff != "" {
						t.Errorf("%s: %s", what, diff)
					}
				}
				if diff := cmp.Diff(want, w.contents(t, w.top(t), w.owner)); diff != "" {
					t.Errorf("%s: what is stored: %s", what, diff)
				}
				// Later, by another merger.
				w.all(t, w.options(), false)
				if tops := w.top(t); len(tops) != 1 || tops[0].Level != repository.SegmentDay {
					t.Errorf("%s: %d tops, %v", what, len(tops), err)
				}
				if last {
					must(t, err)
					if skip == 0 && op != faultstore.Stat {
						t.Errorf("%s is never called", op)
					}
					break
				}
			}
		}
	}
}

// TestKilledBeforePublish: data without a manifest is nobody's, and the next try is a new one.
func TestKilledBeforePublish(t *testing.T) {
	w := newWorld(t, repository.None)
	w.day(t)
	ctx, kill := context.WithCancelCause(t.Context())
	w.store.Add(faultstore.Fault{On: faultstore.Put, Name: "clusters/prod/archive/", Do: faultstore.Fail, Times: -1, Err: store.Mark(errors.New("killed"), store.ErrDenied)})
	m := NewMerger(w.Repository, w.writer, "prod")
	_, err := m.Look(ctx, w.options())
	must(t, err)
	due := m.Due(w.options(), false)
	_, err = m.Do(ctx, due[0], w.options())
	kill(nil)
	w.store.Clear()
	if err == nil || len(w.top(t)) != 14 {
		t.Errorf("%v, %d tops", err, len(w.top(t)))
	}
	unclaimed, err := w.Unclaimed(t.Context(), "prod")
	if err != nil || len(unclaimed) != 1 || !unclaimed[0].Segment {
		t.Errorf("unclaimed %+v, %v", unclaimed, err)
	}
	if left := m.Due(w.options(), false); len(left) > 0 {
		t.Errorf("it is due at once: %s", text(left))
	}
	later := w.options()
	later.Now = func() time.Time { return at("28 00:01:00") }
	if left := m.Due(later, false); len(left) != 1 {
		t.Errorf("it is not due later: %s", text(left))
	}
	w.all(t, w.options(), false)
	if len(w.top(t)) != 1 {
		t.Error("the next try has not merged")
	}
}

// TestTwoMergers at once: both end well, with one truth.
func TestTwoMergers(t *testing.T) {
	w := newWorld(t, repository.Age)
	want := w.contents(t, w.day(t), w.owner)
	for _, now := range []string{"10:03:30", "11:00:15", "28 00:00:00"} {
		var group sync.WaitGroup
		taken := make([]int, 4)
		for i := range taken {
			group.Go(func() {
				o := w.options()
				o.Now = func() time.Time { return at(now) }
				m := NewMerger(w.Repository, w.writer, "prod")
				_, err := m.Look(t.Context(), o)
				for due := m.Due(o, false); err == nil && len(due) > 0; due = m.Due(o, false) {
					for _, one := range due {
						var r Result
						if r, err = m.Do(t.Context(), one, o); err != nil {
							break
						}
						if r.Taken {
							taken[i]++
						}
					}
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if diff := cmp.Diff(want, w.contents(t, w.top(t), w.owner)); diff != "" {
			t.Error(diff)
		}
		t.Logf("%s: second %v times", now, taken)
	}
	if tops := w.top(t); len(tops) != 1 {
		t.Errorf("%d tops", len(tops))
	}
}

// TestDamagedInput: what is damaged is told and left alone, and what is around it is merged.
func TestDamagedInput(t *testing.T) {
	w := newWorld(t, repository.Age)
	lives := w.day(t)
	bad := lives[3]
	o := w.options()
	m := NewMerger(w.Repository, w.writer, "prod")
	_, err := m.Look(t.Context(), o)
	must(t, err)
	w.store.Add(faultstore.Fault{On: faultstore.Open, Name: bad.Object.Name, Times: -1, Do: faultstore.Short, At: bad.Object.Size - 10})
	_, err = m.Do(t.Context(), m.Due(o, false)[0], o)
	if !errors.Is(err, repository.ErrDamaged) || !strings.Contains(err.Error(), bad.Object.Name) {
		t.Errorf("error %v", err)
	}
	due := m.Due(o, false)
	if len(due) != 2 || due[0].Range().Last+1 != bad.First || due[1].Range().First != bad.Last+1 {
		t.Fatalf("due %s", text(due))
	}
	for _, one := range due {
		_, err := m.Do(t.Context(), one, o)
		must(t, err)
	}
	if left := m.Due(o, false); len(left) > 0 {
		t.Errorf("still due %s", text(left))
	}
}

// TestUnread: what was stored and cannot be read back is not what its inputs may go for.
func TestUnread(t *testing.T) {
	for _, encryption := range []repository.Encryption{repository.Age, repository.None} {
		w := newWorld(t, encryption)
		lives := w.day(t)
		o := w.options()
		m := NewMerger(w.Repository, w.writer, "prod")
		_, err := m.Look(t.Context(), o)
		must(t, err)
		due := m.Due(o, false)[0]
		// 14 inputs are read, and then the output.
		w.store.Add(faultstore.Fault{On: faultstore.Open, Name: "clusters/prod/segments/", Skip: len(lives), Do: faultstore.Short, At: 50, Times: -1})
		_, err = m.Do(t.Context(), due, o)
		if unread, is := errors.AsType[*Unread](err); !is || !errors.Is(err, repository.ErrDamaged) || unread.Segment.Level != repository.SegmentDay {
			t.Errorf("error %v", err)
		}
		if encryption == repository.Age && !m.Needs(w.ours[0].Recipient().KeyID()) {
			t.Error("the key is not needed any more")
		}
		if err := m.Confirm(t.Context(), at("26 00:00:00"), o); !errors.Is(err, repository.ErrDamaged) {
			t.Errorf("confirmed: %v", err)
		}
		again := NewMerger(w.Repository, w.writer, "prod")
		_, err = again.Look(t.Context(), o)
		must(t, err)
		if err := again.Confirm(t.Context(), at("26 00:00:00"), o); !errors.Is(err, repository.ErrDamaged) || again.Needs("any") {
			t.Errorf("confirmed by the next: %v", err)
		}
		w.store.Clear()
		must(t, again.Confirm(t.Context(), at("26 00:00:00"), o))
		if len(again.Due(o, false)) > 0 {
			t.Error("it is due again")
		}
	}
}

// TestLookReadsLittle: what is inside of a merged segment is not read, unless that one cannot be believed.
func TestLookReadsLittle(t *testing.T) {
	w := newWorld(t, repository.None)
	w.day(t)
	w.all(t, w.options(), false)
	before := w.store.Calls(faultstore.Open)
	if n := len(w.top(t)); n != 1 {
		t.Fatalf("%d tops", n)
	}
	if n := w.store.Calls(faultstore.Open) - before; n > 2 {
		t.Errorf("%d reads", n)
	}
	name := fmt.Sprintf("clusters/prod/archive/%s/3/%020d-%020d.json", line, 1, 1000)
	_, err := store.PutBytes(t.Context(), w.store, name, []byte("{}\n{}\n"), store.PutOptions{})
	must(t, err)
	segments, strays, err := Look(t.Context(), w.Repository, "prod")
	if err != nil || len(strays) != 1 || len(segments) != 1 {
		t.Errorf("%d segments, strays %v, %v", len(segments), strays, err)
	}
	w.store.Add(faultstore.Fault{On: faultstore.Open, Name: "clusters/prod/archive/"})
	if _, _, err := Look(t.Context(), w.Repository, "prod"); !errors.Is(err, faultstore.ErrInjected) {
		t.Errorf("error %v", err)
	}
}
