package gcs_test

import (
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/gcstest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

func open(t *testing.T, o gcs.Options) *gcs.Store {
	t.Helper()
	s, err := gcs.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	server := gcstest.Start(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		o := server.Options(server.Bucket(t, false))
		o.Prefix = "below/here"
		return open(t, o)
	})
}

// TestContractOfSessions runs the suite where sessions are kept as Google documents them, in a bucket with versions.
func TestContractOfSessions(t *testing.T) {
	server := gcstest.Start(t)
	front := gcstest.NewSessions(t, server)
	storetest.Run(t, func(t *testing.T) store.Store {
		o := server.Options(server.Bucket(t, true))
		o.Endpoint = front.URL
		return open(t, o)
	})
	if n := front.Left(); n != 0 {
		t.Errorf("%d uploads are left behind", n)
	}
}
