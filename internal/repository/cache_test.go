package repository

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// countingStore counts what is opened.
type countingStore struct {
	store.Store
	opened atomic.Int64
}

func (s *countingStore) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	if strings.Contains(name, manifestPart) || strings.Contains(name, verificationPart) || strings.Contains(name, archivePart) {
		s.opened.Add(1)
	}
	return s.Store.Open(ctx, name, from, length)
}

func TestCache(t *testing.T) {
	w := newWorld(t, None)
	first := w.add(t, "prod", backend(t, 0))
	_, err := w.tryAdd(t.Context(), "prod", first.Timeline, backend(t, 1))
	must(t, err)
	reads, _, err := w.Snapshots(t.Context(), "prod")
	must(t, err)
	_, err = w.RecordVerification(t.Context(), w.writer, reads[0], Verification{Started: time.Now(), Level: LevelChecksum, Passed: true})
	must(t, err)
	counting := &countingStore{Store: w.store}
	dir := filepath.Join(t.TempDir(), "cache")
	list := func() (opened int64) {
		t.Helper()
		counting.opened.Store(0)
		plain, err := Open(t.Context(), counting, w.Root())
		must(t, err)
		r := plain.WithCache(Cache{Dir: dir})
		reads, _, err := r.Snapshots(t.Context(), "prod")
		must(t, err)
		verifications, _, err := r.Verifications(t.Context(), "prod", nil)
		must(t, err)
		for _, read := range reads {
			must(t, read.Err)
		}
		if len(reads) != 2 || ProofOf(reads[0], verifications).Standing != StandingVerified {
			t.Errorf("reads %+v, %+v", reads, verifications)
		}
		return counting.opened.Load()
	}
	if cold, warm := list(), list(); cold != 3 || warm != 0 {
		t.Errorf("opened %d cold and %d warm", cold, warm)
	}
	// A damaged file of the cache costs one request.
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	must(t, err)
	if len(files) != 3 {
		t.Fatalf("files %q", files)
	}
	must(t, os.WriteFile(files[0], []byte("rubbish"), 0o600))
	if again, warm := list(), list(); again != 1 || warm != 0 {
		t.Errorf("opened %d with a damaged file and %d later", again, warm)
	}
	// What is not in the store any more is not listed, and a key that was revoked is not believed.
	_, err = w.Revoke(t.Context(), w.root, w.writer.Public().Fingerprint(), true)
	must(t, err)
	r, err := Open(t.Context(), counting, w.Root())
	must(t, err)
	reads, _, err = r.WithCache(Cache{Dir: dir}).Snapshots(t.Context(), "prod")
	must(t, err)
	if reads[0].Err == nil {
		t.Error("a revoked signer is believed out of the cache")
	}
	w.replace(t, first.Point().manifestName(), nil)
	if reads, _, err = r.WithCache(Cache{Dir: dir}).Snapshots(t.Context(), "prod"); err != nil || len(reads) != 1 {
		t.Errorf("after a manifest was removed: %+v, %v", reads, err)
	}
}
