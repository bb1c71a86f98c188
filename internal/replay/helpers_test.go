package replay

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/holdfast-project/holdfast/internal/snapshot"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scan judges a file page by page.
func scan(path string) (Base, error) {
	file, err := os.Open(path)
	if err != nil {
		return Base{}, err
	}
	defer file.Close()
	scanner := snapshot.NewScanner(snapshot.Options{})
	if _, err := io.Copy(scanner, file); err != nil {
		return Base{}, err
	}
	info, err := scanner.Finish()
	return Base{File: path, Info: info, Index: scanner.Index()}, err
}

func scanBase(t testing.TB, path string) Base {
	t.Helper()
	base, err := scan(path)
	must(t, err)
	return base
}

// emptyBase is a backend at revision 1.
func emptyBase(t testing.TB) Base {
	t.Helper()
	path := filepath.Join(t.TempDir(), "empty")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
	must(t, err)
	must(t, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"key", "meta", "lease", "members"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, db.Close())
	return scanBase(t, path)
}

func cpuTime(t testing.TB) time.Duration {
	var usage syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// checkEmpty wants nothing to be left in a folder.
func checkEmpty(t testing.TB, folder string) {
	t.Helper()
	left, err := os.ReadDir(folder)
	must(t, err)
	if len(left) != 0 {
		t.Errorf("it left %v", left)
	}
}
