package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// lock is for stores that cannot lock: they say so, and write nothing. RunLocks is for the others.
func lock(t *testing.T, b *bench) {
	_, err := b.Put(t.Context(), "locked", strings.NewReader("x"), store.PutOptions{RetainUntil: time.Now().Add(time.Hour)})
	if err == nil {
		return
	}
	if !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("put with a lock: %v", err)
	}
	b.wantNames("", "")
}

// RunLocks tests the stores that open makes, each of which is empty and locks objects.
func RunLocks(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{{"Locked", locked}, {"PastLock", pastLock}, {"Delete", deletes}, {"OneWriterWins", oneWriterWins}} {
		t.Run(test.name, func(t *testing.T) { test.run(t, &bench{t: t, Store: open(t)}) })
	}
}

func locked(t *testing.T, b *bench) {
	until := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	for _, size := range []int{1, large} {
		name, content := fmt.Sprint("locked/", size), BytesOf(size)
		_, err := b.Put(t.Context(), name, bytes.NewReader(content), store.PutOptions{RetainUntil: until})
		b.must(err)
		err = b.Store.(store.Deleter).Delete(t.Context(), name)
		if lock, is := errors.AsType[store.Locked](err); !is || !lock.Until.Equal(until) {
			t.Errorf("delete: %v, want it locked until %s", err, until)
		}
		b.wantContent(name, bytes.NewReader(content))
	}
	b.wantNames("", "", "locked/1", fmt.Sprint("locked/", large))
}

func pastLock(t *testing.T, b *bench) {
	for _, size := range []int{1, large} {
		_, err := b.Put(t.Context(), "past", bytes.NewReader(BytesOf(size)), store.PutOptions{RetainUntil: time.Now().Add(-time.Hour)})
		if err == nil {
			t.Errorf("put of %d bytes with a lock that is over", size)
		}
	}
	b.wantNames("", "")
}
