package unitaction

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// TestGuard makes each of the sources know of a second unit in turn, or unable to tell. An etcd that hangs is another test's.
func TestGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "3.7")
	check := func(what, want string) {
		t.Helper()
		begun := time.Now()
		err := w.guardOneUnit(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) || time.Since(begun) > 3*statusTimeout {
			t.Errorf("%s, after %s: %v; want %q", what, time.Since(begun), err, want)
		}
	}
	check("a unit that never had data", "")
	units := func(numbers ...int) func() ([]unit.Name, error) {
		var names []unit.Name
		for _, n := range numbers {
			names = append(names, unit.Name{Application: "etcd", Number: n})
		}
		return func() ([]unit.Name, error) { return names, nil }
	}
	w.ApplicationUnits = units(0)
	check("alone in the inventory", "")
	w.ApplicationUnits = units(0, 1, 2)
	check("three in the inventory", "restore refused: application etcd has 3 units (etcd/0, etcd/1, etcd/2); restore needs exactly one")
	w.ApplicationUnits = func() ([]unit.Name, error) { return nil, errors.New("not found") }
	check("an inventory that cannot be read", "restore refused: read the units of the application: not found")
	w.ApplicationUnits = nil

	w.serve(t)
	check("alone in the cluster", "")
	must(t, w.child.Hold(t.Context()))
	check("alone in the data dir", "")
	w.child.Release()
	must(t, w.awaitServing(t.Context(), time.Minute, 0))
	_, err := w.etcd(t).MemberAddAsLearner(t.Context(), []string{"http://127.0.0.1:1"})
	must(t, err)
	check("a learner that never started", "restore refused: the cluster has 2 members (")
	if err := w.guardOneUnit(t.Context()); !strings.Contains(err.Error(), "etcd-0") || !strings.Contains(err.Error(), "http://127.0.0.1:1") || !strings.HasSuffix(err.Error(), "; restore needs exactly one"+elsewhere) {
		t.Errorf("the names are missing: %v", err)
	}
	must(t, w.child.Hold(t.Context()))
	check("the same in the data dir", "restore refused: the data dir records 2 members (")
	backend := filepath.Join(w.Record.DataDir, "member", "snap", "db")
	must(t, os.Truncate(backend, 100))
	check("a data dir that cannot be read", "restore refused: read who is a member by the data dir: ")
}
