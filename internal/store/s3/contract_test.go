package s3_test

import (
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/s3"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

func open(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	server := s3test.Start(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		o := server.Options(server.Bucket(t, false))
		o.Prefix = "below/here"
		return open(t, o)
	})
}
