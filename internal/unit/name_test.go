package unit

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v2"
)

func TestNames(t *testing.T) {
	for text, want := range map[string]Name{
		"etcd/0":               {"etcd", 0},
		"new-etcd/12":          {"new-etcd", 12},
		"a/1":                  {"a", 1},
		"k8s-etcd2-x/9":        {"k8s-etcd2-x", 9},
		"etcd/2147483647":      {"etcd", 2147483647},
		"etcd2/0":              {"etcd2", 0},
		"a-1b/0":               {"a-1b", 0},
		"etcd/900000000000000": {"etcd", 900000000000000},
	} {
		got, err := ParseName(text)
		if err != nil || got != want || got.String() != text || got.IsZero() {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		dir := strings.Replace(text, "/", "-", 1)
		if got.Dir() != dir || got.Tag() != "unit-"+dir {
			t.Errorf("%q: folder %q, tag %q", text, got.Dir(), got.Tag())
		}
	}
	for _, text := range []string{
		"", "etcd", "etcd/", "/0", "etcd/-1", "etcd/+1", "etcd/01", "etcd/00", "etcd/1.0", "etcd/1 ", " etcd/1", "etcd/0x1", "etcd/0/1",
		"Etcd/0", "étcd/0", "etcd_x/0", "etcd-/0", "-etcd/0", "etcd--x/0", "etcd-1/0", "1etcd/0", "../0", "etcd/leader", "etcd/9223372036854775808", "etcd/0\n", "etcd\x00/0",
	} {
		if got, err := ParseName(text); err == nil || got != (Name{}) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if !(Name{}).IsZero() {
		t.Error("the zero name is a unit")
	}
}

func TestNamesInOrder(t *testing.T) {
	names := []Name{{"etcd", 10}, {"new-etcd", 0}, {"etcd", 9}, {"a", 3}, {"etcd", 0}}
	slices.SortFunc(names, Name.Compare)
	var got []string
	for _, name := range names {
		got = append(got, name.String())
	}
	if want := "a/3 etcd/0 etcd/9 etcd/10 new-etcd/0"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestNameInFiles wants a plain string in JSON and YAML, and no other.
func TestNameInFiles(t *testing.T) {
	name := Name{"etcd", 3}
	encoded, err := json.Marshal(name)
	if err != nil || string(encoded) != `"etcd/3"` {
		t.Errorf("JSON %s, %v", encoded, err)
	}
	var got Name
	if err := json.Unmarshal(encoded, &got); err != nil || got != name {
		t.Errorf("%+v, %v", got, err)
	}
	if encoded, err = yaml.Marshal(name); err != nil || string(encoded) != "etcd/3\n" {
		t.Errorf("YAML %q, %v", encoded, err)
	}
	got = Name{}
	if err := yaml.Unmarshal(encoded, &got); err != nil || got != name {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{`"etcd"`, `"etcd/-1"`, `3`, `{}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s is a name", bad)
		}
	}
	if got != name {
		t.Errorf("a refused text changed the name to %+v", got)
	}
}

func TestSnapshotTarget(t *testing.T) {
	if got := (Record{}).SnapshotTarget(); got != "/home/ubuntu/etcd-snapshots" {
		t.Errorf("default %q", got)
	}
	if got := (Record{Target: "/mnt/x"}).SnapshotTarget(); got != "/mnt/x" {
		t.Errorf("given %q", got)
	}
}
