package keyspace

import (
	"fmt"
	"strings"
	"testing"
)

// sample is built anew for each use, so that a test may change what it gets.
func sample() State {
	return State{
		Revision: 9,
		Keys: []Key{
			{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 3, Version: 2, Lease: 0x10},
			{Key: []byte("b"), Value: []byte("secret-word"), CreateRevision: 4, ModRevision: 4, Version: 1},
			{Key: []byte("c"), Value: nil, CreateRevision: 5, ModRevision: 5, Version: 1},
		},
		Leases: []Lease{{ID: 0x10, GrantedTTL: 60, Keys: []string{"a"}}},
		Users:  []User{{Name: "root", Roles: []string{"root"}}},
		Roles:  []Role{{Name: "root"}, {Name: "view", Permissions: []string{`read ["a", "b")`}}},
	}
}

func TestDiff(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*State)
		want   string
	}{
		"nothing":         {func(s *State) {}, ""},
		"revision":        {func(s *State) { s.Revision = 1000 }, ""},
		"value":           {func(s *State) { s.Keys[1].Value = []byte("other") }, `key "b": value: want 11 bytes`},
		"create revision": {func(s *State) { s.Keys[1].CreateRevision = 3 }, `key "b": create revision: want 4, got 3`},
		"mod revision":    {func(s *State) { s.Keys[1].ModRevision = 5 }, `key "b": mod revision: want 4, got 5`},
		"version":         {func(s *State) { s.Keys[1].Version = 7 }, `key "b": version: want 1, got 7`},
		"key's lease":     {func(s *State) { s.Keys[0].Lease = 0 }, `key "a": lease: want 10, got 0`},
		"first missing":   {func(s *State) { s.Keys = s.Keys[1:] }, `key "a": missing`},
		"last missing":    {func(s *State) { s.Keys = s.Keys[:2] }, `key "c": missing`},
		"one more":        {func(s *State) { s.Keys = append(s.Keys, Key{Key: []byte("d")}) }, `key "d": unexpected`},
		"lease missing":   {func(s *State) { s.Leases = nil }, `lease 10: missing`},
		"TTL":             {func(s *State) { s.Leases[0].GrantedTTL = 61 }, `lease 10: granted TTL: want 60 s, got 61 s`},
		"lease's keys":    {func(s *State) { s.Leases[0].Keys = nil }, `lease 10: keys: want ["a"], got []`},
		"auth":            {func(s *State) { s.AuthEnabled = true }, `auth enabled: want false, got true`},
		"user's roles":    {func(s *State) { s.Users[0].Roles = nil }, `user "root": roles: want ["root"], got []`},
		"role missing":    {func(s *State) { s.Roles = s.Roles[:1] }, `role "view": missing`},
		"permissions":     {func(s *State) { s.Roles[1].Permissions = []string{`read "a"`} }, `role "view": permissions:`},
	} {
		t.Run(name, func(t *testing.T) {
			got := sample()
			tt.change(&got)
			diff := Diff(sample(), got)
			if tt.want == "" && diff != "" {
				t.Fatalf("want no difference, got %q", diff)
			}
			if !strings.Contains(diff, tt.want) || strings.Contains(diff, "\n") {
				t.Fatalf("want one line with %q, got %q", tt.want, diff)
			}
			if strings.Contains(diff, "secret-word") {
				t.Fatalf("diff shows a value: %q", diff)
			}
		})
	}
}

func TestDiffIsShort(t *testing.T) {
	var s State
	for i := range 5000 {
		s.Keys = append(s.Keys, Key{Key: fmt.Appendf(nil, "%06d", i)})
	}
	lines := strings.Split(Diff(s, State{}), "\n")
	if len(lines) != maxLines+1 || lines[maxLines] != "... and 4980 more differences" {
		t.Fatalf("got %d lines, the last: %q", len(lines), lines[len(lines)-1])
	}
}

func TestGet(t *testing.T) {
	s := sample()
	if k, found := s.Get("b"); !found || k.ModRevision != 4 {
		t.Errorf("b: got %+v, %v", k, found)
	}
	if _, found := s.Get("bb"); found {
		t.Error("bb: found")
	}
}
