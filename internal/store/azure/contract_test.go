package azure_test

import (
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/azuretest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

func open(t *testing.T, o azure.Options) *azure.Store {
	t.Helper()
	s, err := azure.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestContract(t *testing.T) {
	server := azuretest.Start(t)
	storetest.Run(t, func(t *testing.T) store.Store {
		o := server.Options(server.Container(t))
		o.Prefix = "below/here"
		return open(t, o)
	})
}
