package s3_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/s3"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

func TestContractWithLocks(t *testing.T) {
	server := s3test.Start(t)
	storetest.RunLocks(t, func(t *testing.T) store.Store { return open(t, server.Options(server.Bucket(t, true))) })
}

// TestLock locks a small object and one in parts: no version of them can be deleted, also not by who owns the server.
func TestLock(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t, true)
	s := open(t, server.Options(bucket))
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	for name, size := range map[string]int{"small": 10, "large": large} {
		want := storetest.BytesOf(size)
		if _, err := s.Put(t.Context(), name, bytes.NewReader(want), store.PutOptions{RetainUntil: until}); err != nil {
			t.Fatal(err)
		}
		err := s.Delete(t.Context(), name)
		if locked, is := errors.AsType[store.Locked](err); !is || !locked.Until.Equal(until) {
			t.Errorf("delete of %q: %v, want it locked until %s", name, err, until)
		}
		info, err := server.Client.StatObject(t.Context(), bucket, name, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Metadata.Get("X-Amz-Object-Lock-Mode"); mode != "COMPLIANCE" {
			t.Errorf("%q is locked as %q", name, mode)
		}
		remove := minio.RemoveObjectOptions{VersionID: info.VersionID, GovernanceBypass: true}
		if err := server.Client.RemoveObject(t.Context(), bucket, name, remove); err == nil {
			t.Errorf("the locked version of %q was removed", name)
		}
		body, err := s.Open(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q has %d bytes, %v", name, len(got), err)
		}
	}
	// A hold has no date.
	if _, err := s.Put(t.Context(), "held", strings.NewReader("x"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	on, off := minio.LegalHoldEnabled, minio.LegalHoldDisabled
	for _, hold := range []*minio.LegalHoldStatus{&on, &off} {
		if err := server.Client.PutObjectLegalHold(t.Context(), bucket, "held", minio.PutObjectLegalHoldOptions{Status: hold}); err != nil {
			t.Fatal(err)
		}
		err := s.Delete(t.Context(), "held")
		if locked, is := errors.AsType[store.Locked](err); is != (hold == &on) || !locked.Until.IsZero() || !is && err != nil {
			t.Errorf("delete with hold %s: %v", *hold, err)
		}
	}
}

// TestDeleteOfVersions leaves no version of a deleted object behind.
func TestDeleteOfVersions(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t, true)
	s := open(t, server.Options(bucket))
	for _, text := range []string{"somebody", "overwrote", "this"} {
		if _, err := server.Client.Client.PutObject(t.Context(), bucket, "a/b", strings.NewReader(text), int64(len(text)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	for version := range server.Client.ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
		t.Errorf("left behind: %+v", version)
	}
}

// TestNoLocks refuses a lock where it would not hold: in a bucket without, and where a server says so.
func TestNoLocks(t *testing.T) {
	w := newWorld(t, s3test.Start(t))
	lock := store.PutOptions{RetainUntil: time.Now().Add(time.Hour)}
	put := func(s *s3.Store, size int) error {
		_, err := s.Put(t.Context(), "a/b", bytes.NewReader(storetest.BytesOf(size)), lock)
		return err
	}
	for _, size := range []int{10, large} {
		if err := put(w.Store, size); !errors.Is(err, store.ErrUnsupported) {
			t.Errorf("put of %d bytes with a lock: %v", size, err)
		}
	}
	// Who may not ask is not believed to have a lock: this server puts the object before it refuses to lock it.
	w.Proxy.Add(faultstore.HTTPFault{Match: isGet, Do: faultstore.Answer, Times: -1, Status: 403})
	for _, size := range []int{10, large} {
		err := put(w.Store, size)
		w.WantDiscreet(t, err)
		if !errors.Is(err, store.ErrDenied) {
			t.Errorf("put of %d bytes with a lock: %v", size, err)
		}
	}
	w.WantObject(t, "a/b", nil)
}
