package chain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/replay"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// answer is how long the store of these tests takes to answer.
const answer = 30 * time.Millisecond

// archived makes a repository with one segment for each size, in bytes of values that do not compress.
func archived(t *testing.T, faults *faultstore.Store, sizes []int) (Parts, Chain) {
	t.Helper()
	root, err := repository.NewKey()
	must(t, err)
	repo, err := repository.Init(t.Context(), faults, root, repository.None, nil)
	must(t, err)
	chain := Chain{Revision: history.Revision(len(sizes) + 1)}
	for i, size := range sizes {
		revision := history.Revision(i + 2)
		chain.Segments = append(chain.Segments, stored(t, repo, revision, revision, size))
	}
	return Parts{Repository: repo}, chain
}

// stored puts a segment of some revisions, each with a put of a key of its own.
func stored(t *testing.T, repo *repository.Repository, first, last history.Revision, size int) repository.Segment {
	t.Helper()
	b := segment.NewBuilder()
	for revision := first; revision <= last; revision++ {
		value := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{byte(revision), byte(revision >> 8)}).Read(value) // it gives no error
		event := history.Event{Revision: revision, Key: fmt.Appendf(nil, "/registry/%d", revision), Value: value, CreateRevision: revision, Version: 1}
		must(t, b.Add([]history.Event{event}, time.Unix(1, 0), time.Unix(1, 0)))
	}
	var plain, sealed bytes.Buffer
	summary, err := b.Encode(&plain, nil)
	must(t, err)
	w, err := seal.NewWriter(&sealed, seal.Options{Concurrency: 1})
	must(t, err)
	_, err = w.Write(plain.Bytes())
	must(t, errors.Join(err, w.Close()))
	object, err := repo.NewSegmentData("prod", "0123456789abcdef", first, nil)
	must(t, err)
	sum := sha256.Sum256(sealed.Bytes())
	object.Size, object.SHA256 = int64(sealed.Len()), hex.EncodeToString(sum[:])
	object, err = repo.PutSegmentData(t.Context(), object, bytes.NewReader(sealed.Bytes()), time.Time{})
	must(t, err)
	return repository.Segment{
		First: first, Last: last, Events: int64(last-first) + 1, Object: object,
		Plain: repository.Plain{Size: summary.Size, SHA256: hex.EncodeToString(summary.SHA256[:])},
	}
}

// TestOverlap: two archivers that wrote at once have cut the line at other places, and each revision counts once.
func TestOverlap(t *testing.T) {
	parts, chain := archived(t, faultstore.New(mem.New()), nil)
	for _, r := range []history.Range{{First: 2, Last: 5}, {First: 4, Last: 8}, {First: 9, Last: 9}, {First: 7, Last: 12}} {
		chain.Segments = append(chain.Segments, stored(t, parts.Repository, r.First, r.Last, 10))
	}
	segments, end := parts.segments(t.Context(), chain)
	defer end()
	got, err := replayed(t.Context(), segments)
	must(t, err)
	slices.Sort(got)
	if fmt.Sprint(got) != "[2 3 4 5 6 7 8 9 10 11 12]" {
		t.Errorf("revisions %v", got)
	}
	for i, s := range segments[1:] {
		if s.Range.First != segments[i].Range.Last+1 {
			t.Errorf("segment %s after %s", s.Range, segments[i].Range)
		}
	}
}

// replayed reads segments as replay does: the newest first, each to its end.
func replayed(ctx context.Context, segments []replay.Segment) (revisions []history.Revision, err error) {
	for _, s := range slices.Backward(segments) {
		events, err := s.Open(ctx)
		if err != nil {
			return revisions, err
		}
		for {
			e, err := events.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return revisions, errors.Join(err, events.Close())
			}
			revisions = append(revisions, e.Revision)
		}
		if err := events.Close(); err != nil {
			return revisions, err
		}
	}
	return revisions, nil
}

func repeated(n, size int) []int { return slices.Repeat([]int{size}, n) }

// TestReadAhead reads segments from a store that takes its time, in a time that stands still otherwise.
func TestReadAhead(t *testing.T) {
	const mib = 1 << 20
	for name, tt := range map[string]struct {
		sizes       []int
		least, most time.Duration
	}{
		"one":                         {repeated(1, 100), answer, answer},
		"many small ones":             {repeated(240, 1000), 240 / aheadAtOnce * answer, 240 / aheadAtOnce * answer},
		"more than there is room for": {repeated(40, 1_000_000), 40 / aheadAtOnce * answer, 40 / aheadAtOnce * answer},
		// Nothing is read ahead of a large one, and nothing waits for it but replay.
		"large ones":        {repeated(6, 3*mib), 6 * answer, 6 * answer},
		"large among small": {append(append(repeated(40, 1000), 3*mib), repeated(40, 1000)...), 80 / aheadAtOnce * answer, (80/aheadAtOnce + 1) * answer},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				faults := faultstore.New(mem.New())
				parts, chain := archived(t, faults, tt.sizes)
				faults.Add(faultstore.Fault{On: faultstore.Open, Times: -1, Do: faultstore.Slow, Delay: answer})
				before := faults.Calls(faultstore.Open)
				segments, end := parts.segments(t.Context(), chain)
				began := time.Now()
				revisions, err := replayed(t.Context(), segments)
				took := time.Since(began)
				end()
				must(t, err)
				if took < tt.least || took > tt.most {
					t.Errorf("it takes %s, want %s to %s", took, tt.least, tt.most)
				}
				for i, revision := range revisions {
					if want := chain.Revision - history.Revision(i); revision != want {
						t.Fatalf("revision %d comes where %d should", revision, want)
					}
				}
				if opened := faults.Calls(faultstore.Open) - before; len(revisions) != len(tt.sizes) || opened != len(tt.sizes) {
					t.Errorf("%d revisions came and %d objects were opened, want %d", len(revisions), opened, len(tt.sizes))
				}
			})
		})
	}
}

// TestReadAheadIsBounded looks at how much was read while nobody takes anything.
func TestReadAheadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := faultstore.New(mem.New())
		parts, chain := archived(t, faults, repeated(100, 1000))
		for i := range chain.Segments {
			chain.Segments[i].Object.Size = aheadLargest // as a manifest may say
		}
		before := faults.Calls(faultstore.Open)
		segments, end := parts.segments(t.Context(), chain)
		synctest.Wait()
		if opened, most := faults.Calls(faultstore.Open)-before, aheadBytes/aheadLargest; opened != most {
			t.Errorf("%d objects were read ahead, want %d", opened, most)
		}
		// The objects are shorter than that, which is found out when they are unsealed.
		if _, err := replayed(t.Context(), segments); !errors.Is(err, repository.ErrDamaged) {
			t.Errorf("error %v", err)
		}
		end()
	})
}

// TestReadAheadFails wants the error of an object where it is needed and not before, and everything ended then.
func TestReadAheadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		faults := faultstore.New(mem.New())
		parts, chain := archived(t, faults, repeated(60, 1000))
		broken := chain.Segments[20]
		faults.Add(
			faultstore.Fault{On: faultstore.Open, Name: broken.Object.Name, Times: -1},
			faultstore.Fault{On: faultstore.Open, Times: -1, Do: faultstore.Slow, Delay: answer},
		)
		segments, end := parts.segments(t.Context(), chain)
		revisions, err := replayed(t.Context(), segments)
		end()
		if !errors.Is(err, faultstore.ErrInjected) || !strings.Contains(err.Error(), broken.Range().String()) || len(revisions) != 39 {
			t.Errorf("%d revisions came before %v", len(revisions), err)
		}
		// The bubble waits for every goroutine, so one that is left hangs the test.
		ctx, cancel := context.WithCancelCause(t.Context())
		segments, end = parts.segments(ctx, chain)
		stop := errors.New("enough")
		cancel(stop)
		if _, err := replayed(ctx, segments); !errors.Is(err, stop) {
			t.Errorf("after the end of ctx: %v", err)
		}
		end()
	})
}

// TestReadAheadDamage wants damage to be seen in what was read ahead.
func TestReadAheadDamage(t *testing.T) {
	faults := faultstore.New(mem.New())
	parts, chain := archived(t, faults, repeated(30, 1000))
	for what, fault := range map[string]faultstore.Fault{
		"cut off": {Do: faultstore.Short, At: 20}, "lost": {Err: store.ErrNotFound}, "broken": {Do: faultstore.Cut, At: 20},
	} {
		fault.On, fault.Name, fault.Times = faultstore.Open, chain.Segments[7].Object.Name, -1
		faults.Add(fault)
		segments, end := parts.segments(t.Context(), chain)
		revisions, err := replayed(t.Context(), segments)
		end()
		if err == nil || len(revisions) != 22 {
			t.Errorf("%s: %d revisions, %v", what, len(revisions), err)
		}
		faults.Clear()
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
