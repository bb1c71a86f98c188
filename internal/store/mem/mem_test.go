package mem_test

import (
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return mem.New() })
}

func TestContractWithLocks(t *testing.T) {
	storetest.RunLocks(t, func(*testing.T) store.Store { return mem.New() })
}
