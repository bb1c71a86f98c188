package juju

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/unit"
)

func TestResolve(t *testing.T) {
	var asked []string
	leader := func(application string) (unit.Name, bool) {
		asked = append(asked, application)
		return unit.Name{Application: "etcd", Number: 2}, application == "etcd"
	}
	refs := func(words ...string) []UnitRef {
		var refs []UnitRef
		for _, word := range words {
			ref, err := ParseUnitRef(word)
			if err != nil {
				t.Fatal(err)
			}
			refs = append(refs, ref)
		}
		return refs
	}

	got, err := Resolve(refs("etcd/1", "etcd/leader", "etcd/2", "etcd/0"), leader)
	if err != nil {
		t.Fatal(err)
	}
	want := []unit.Name{name(t, "etcd/1"), name(t, "etcd/2"), name(t, "etcd/0")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("units differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"etcd"}, asked); diff != "" {
		t.Errorf("leaders asked for differ (-want +got):\n%s", diff)
	}

	_, err = Resolve(refs("other/leader"), leader)
	checkRun(t, err, `could not determine leader for "other"`)
	checkRun(t, ErrNotDefined("x", name(t, "etcd/0")), `action "x" not defined on unit "etcd/0"`)
}

// checkRun checks the text of an error and that it makes the exit code 1.
func checkRun(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", want)
	}
	same(t, err.Error(), want)
	if code := ErrorExitCode(err); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}
