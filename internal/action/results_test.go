package action

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResultsSet(t *testing.T) {
	type m = map[string]any
	tests := []struct {
		name string
		sets [][2]string
		want Results
	}{
		{"flat", [][2]string{{"a", "1"}, {"b", ""}}, Results{"a": "1", "b": ""}},
		{"nested", [][2]string{{"snapshot.path", "p"}, {"snapshot.size", "s"}, {"copy.cmd", "c"}},
			Results{"snapshot": m{"path": "p", "size": "s"}, "copy": m{"cmd": "c"}}},
		{"deep", [][2]string{{"a.b.c", "1"}, {"a.b.d", "2"}}, Results{"a": m{"b": m{"c": "1", "d": "2"}}}},
		{"the later value wins", [][2]string{{"a", "1"}, {"a", "2"}}, Results{"a": "2"}},
		{"a value replaces a map", [][2]string{{"a.b", "1"}, {"a", "2"}}, Results{"a": "2"}},
		{"a map replaces a value", [][2]string{{"a", "1"}, {"a.b", "2"}}, Results{"a": m{"b": "2"}}},
		{"a map replaces an inner value", [][2]string{{"a.b", "1"}, {"a.b.c", "2"}, {"a.d", "3"}},
			Results{"a": m{"b": m{"c": "2"}, "d": "3"}}},
		{"bad bytes", [][2]string{{"a", "x\xffy"}}, Results{"a": "x\uFFFDy"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var call Call
			for _, set := range test.sets {
				call.Set(set[0], set[1])
			}
			got := call.Results()
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			last := test.sets[len(test.sets)-1]
			if value, found := got.Get(last[0]); test.name != "bad bytes" && (!found || value != last[1]) {
				t.Errorf("Get(%q) = %q, %v", last[0], value, found)
			}
		})
	}
}

func TestResultsGet(t *testing.T) {
	r := Results{}
	r.Set("a.b", "1")
	for _, key := range []string{"a", "b", "a.c", "a.b.c", "", "x.y.z"} {
		if value, found := r.Get(key); found {
			t.Errorf("Get(%q) = %q", key, value)
		}
	}
}

func TestResultsSetRefusesBadKeys(t *testing.T) {
	for _, key := range []string{"", "A", "a.", ".a", "a..b", "a.B", "juju", "a.juju-x"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("key %q was taken", key)
				}
			}()
			Results{}.Set(key, "x")
		}()
	}
}

func TestCallResultsAreACopy(t *testing.T) {
	var call Call
	if call.Results() != nil {
		t.Error("results of a new call are not nil")
	}
	call.Set("a.b", "1")
	call.Results().Set("a.b", "2")
	if got, _ := call.Results().Get("a.b"); got != "1" {
		t.Errorf("a.b is %q after a change of the copy", got)
	}
	call.Logf("nobody %s", "listens")
}
