package inventory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/unit"
)

func record(name unit.Name) unit.Record {
	files := func(what string) unit.TLSFiles {
		return unit.TLSFiles{CA: "/tls/ca.crt", Cert: "/tls/" + what + ".crt", Key: "/tls/" + what + ".key"}
	}
	port := 7000 + 10*name.Number + 1000*len(name.Application)
	return unit.Record{
		Agent: fmt.Sprintf("127.0.0.1:%d", port), ClientURLs: []string{fmt.Sprintf("https://127.0.0.1:%d", port+1)},
		PeerURL: fmt.Sprintf("https://127.0.0.1:%d", port+2), Member: name.Dir(),
		DataDir: "/units/" + name.Dir() + "/data", Root: "/units/" + name.Dir() + "/root", Service: unit.Service{Kind: unit.Child},
		TLS: files("client"), ServerTLS: files("server"), PeerTLS: files("peer"),
	}
}

// addUnits adds n units in one change.
func addUnits(t *testing.T, f *File, application string, n int) []unit.Name {
	t.Helper()
	var names []unit.Name
	err := f.Update(func(inv *Inventory) error {
		if _, err := inv.Application(application); err != nil {
			if _, err := inv.AddApplication(application); err != nil {
				return err
			}
		}
		for range n {
			name, err := inv.AddUnit(application)
			if err != nil {
				return err
			}
			if err := inv.SetUnit(name, record(name)); err != nil {
				return err
			}
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func view(t *testing.T, f *File) *Inventory {
	t.Helper()
	inv, err := f.View()
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func update(t *testing.T, f *File, change func(*Inventory) error) {
	t.Helper()
	if err := f.Update(change); err != nil {
		t.Fatal(err)
	}
}

func TestMissingFileIsAnEmptyModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "home", "inventory.yaml")
	inv := view(t, Open(path))
	if inv.Model != "default" || len(inv.Applications) != 0 {
		t.Errorf("got %+v", inv)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("looking made the folder")
	}
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "home", "inventory.yaml")
	f := Open(path)
	addUnits(t, f, "etcd", 11)
	inv := view(t, Open(path))
	names, err := inv.Units("etcd")
	if err != nil || len(names) != 11 || !slices.IsSortedFunc(names, unit.Name.Compare) {
		t.Errorf("units are %v, %v; want 11 in order", names, err)
	}
	want := record(unit.Name{Application: "etcd", Number: 10})
	if got, err := inv.Unit(unit.Name{Application: "etcd", Number: 10}); err != nil || !cmp.Equal(got, want) {
		t.Errorf("unit 10: %v\n%s", err, cmp.Diff(want, got))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v; want mode 600", info, err)
	}
}

func TestUnitNumbersAreNeverUsedAgain(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "inventory.yaml"))
	last := addUnits(t, f, "etcd", 3)[2]
	update(t, f, func(inv *Inventory) error { return inv.RemoveUnit(last) })
	if got := addUnits(t, f, "etcd", 1)[0].String(); got != "etcd/3" {
		t.Errorf("unit after a removed one is %s, want etcd/3", got)
	}
	update(t, f, func(inv *Inventory) error { return inv.RemoveApplication("etcd") })
	if len(view(t, f).Names()) != 0 {
		t.Error("the application is still there")
	}
	if got := addUnits(t, f, "etcd", 1)[0].String(); got != "etcd/4" {
		t.Errorf("unit after a removed application is %s, want etcd/4", got)
	}
	// A number that was taken for a unit whose making failed is used up.
	update(t, f, func(inv *Inventory) error { _, err := inv.AddUnit("etcd"); return err })
	if got := addUnits(t, f, "etcd", 1)[0].String(); got != "etcd/6" {
		t.Errorf("unit after a failed one is %s, want etcd/6", got)
	}
}

func TestErrorTexts(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "inventory.yaml"))
	addUnits(t, f, "etcd", 1)
	inv := view(t, f)
	nine := unit.Name{Application: "etcd", Number: 9}
	_, unitErr := inv.Unit(nine)
	_, unitsErr := inv.Units("x")
	_, addErr := inv.AddUnit("x")
	_, sameErr := inv.AddApplication("etcd")
	tests := []struct {
		err      error
		want     string
		notFound bool
	}{
		{unitErr, `unit "etcd/9" not found`, true},
		{inv.RemoveUnit(nine), `unit "etcd/9" not found`, true},
		{unitsErr, `application "x" not found`, true},
		{addErr, `application "x" not found`, true},
		{inv.RemoveApplication("x"), `application "x" not found`, true},
		{inv.SetUnit(nine, unit.Record{}), `set unit "etcd/9": the next unit is number 1`, false},
		{sameErr, `cannot add application "etcd": application already exists`, false},
	}
	for _, test := range tests {
		if test.err == nil || test.err.Error() != test.want || errors.Is(test.err, ErrNotFound) != test.notFound {
			t.Errorf("got %v, want %s", test.err, test.want)
		}
	}
	if _, err := inv.AddApplication("Etcd_1"); err == nil {
		t.Error("a bad name was taken")
	}
}

func TestUpdateThatFailsChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inventory.yaml")
	f := Open(path)
	names := addUnits(t, f, "etcd", 1)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	for what, change := range map[string]func(*Inventory) error{
		"error":   func(inv *Inventory) error { return errors.Join(inv.RemoveApplication("etcd"), stop) },
		"invalid": func(inv *Inventory) error { return inv.SetUnit(names[0], unit.Record{}) },
	} {
		err := f.Update(change)
		if err == nil || (what == "error") != errors.Is(err, stop) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file has changed (%v)", err)
	}
}

func TestBadFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inventory.yaml")
	f := Open(path)
	addUnits(t, f, "etcd", 2)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string {
		edited := strings.Replace(string(good), old, new, 1)
		if edited == string(good) {
			t.Fatalf("%q is not in\n%s", old, good)
		}
		return edited
	}
	for _, test := range []struct{ name, content, want string }{
		{"empty", "", "the file is empty"},
		{"no YAML", "\t{", "yaml:"},
		{"unknown key", edit("model:", "colour: blue\nmodel:"), "field colour not found"},
		{"unknown key of a unit", edit("data-dir:", "data-dyr:"), "field data-dyr not found"},
		{"key twice", edit("model: default", "model: a\nmodel: b"), "already set"},
		{"two documents", string(good) + "---\nmodel: x\n", "one YAML document"},
		{"no model", edit("model: default", `model: ""`), "model: missing"},
		{"relative data dir", edit("/units/etcd-1/data", "data"), `applications.etcd.units.1.data-dir: "data"`},
		{"next unit too low", edit("next-unit: 2", "next-unit: 1"), "applications.etcd.units.1: want a number below next-unit"},
		{"agent twice", edit("127.0.0.1:11010", "127.0.0.1:11000"), `"127.0.0.1:11000" is the agent of etcd/0 already`},
		{"member twice", edit("name: etcd-1", "name: etcd-0"), `applications.etcd.units.1.name: "etcd-0" is the member of unit 0`},
		{"bad name", edit("  etcd:", "  ETCD:"), "applications.ETCD: no application"},
		{"nothing in it", "model: default\napplications: {etcd: }\n", "applications.etcd: empty"},
		{"retired and alive", edit("applications:", "retired: {etcd: 5}\napplications:"), "retired.etcd: the application exists"},
		{"retired below zero", edit("applications:", "retired: {old: -1}\napplications:"), "retired.old:"},
		{"unknown key of an application", edit("    units:", "    resources: {}\n    units:"), "field resources not found"},
	} {
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, viewErr := f.View()
		updateErr := f.Update(func(*Inventory) error { t.Errorf("%s: change was called", test.name); return nil })
		for _, err := range []error{viewErr, updateErr} {
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v; want an error with %q and the file", test.name, err, test.want)
			}
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != test.content {
			t.Errorf("%s: the file has changed (%v)", test.name, err)
		}
	}
	// Every bad field is named, not only the first.
	two := strings.Replace(edit("/units/etcd-0/data", "data"), "/units/etcd-1/root", "root", 1)
	if err := os.WriteFile(path, []byte(two), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = f.View()
	for _, want := range []string{"units.0.data-dir", "units.1.root"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

func TestChangesAtOnceAreAllKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inventory.yaml")
	addUnits(t, Open(path), "etcd", 0)
	const writers, each = 4, 5
	var group sync.WaitGroup
	var mu sync.Mutex
	numbers := map[int]bool{}
	for range writers {
		f := Open(path) // As another process would.
		group.Go(func() {
			for range each {
				addUnits(t, f, "etcd", 1)
				first, err := f.NextNumbers(2)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				numbers[first], numbers[first+1] = true, true
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if names, err := view(t, Open(path)).Units("etcd"); err != nil || len(names) != writers*each {
		t.Errorf("%d units, %v; want %d", len(names), err, writers*each)
	}
	for n := 1; n <= 2*writers*each; n++ {
		if !numbers[n] {
			t.Errorf("number %d was not given; given are %d", n, len(numbers))
		}
	}
}

func TestNextNumbers(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []int{1, 3, 5} {
		if first, err := Open(filepath.Join(dir, "inventory.yaml")).NextNumbers(2); first != want || err != nil {
			t.Errorf("first is %d, %v; want %d", first, err, want)
		}
	}
	f := Open(filepath.Join(dir, "inventory.yaml"))
	if _, err := f.NextNumbers(0); err == nil {
		t.Error("no numbers were taken")
	}
	for _, bad := range []string{"", "x\n", "-1\n", "0\n", "7\n8\n", "9223372036854775807\n"} {
		path := filepath.Join(dir, "numbers")
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if first, err := f.NextNumbers(1); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %d, %v; want an error that names the file", bad, first, err)
		}
	}
}
