package keyspace

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// maxLines bounds what Diff prints: a wrong restore often differs in every key, and the first few tell why.
const maxLines = 20

// Diff says how got differs from want, one line for each difference, or "" when they are the same. It compares
// everything but the revision of the reading. Values, which may be secrets, are shown by size and digest only.
func Diff(want, got State) string {
	var r report
	compare(&r, "key", want.Keys, got.Keys, func(a, b Key) int { return bytes.Compare(a.Key, b.Key) },
		func(k Key) string { return fmt.Sprintf("%q", k.Key) }, diffKey)
	compare(&r, "lease", want.Leases, got.Leases, func(a, b Lease) int { return cmp.Compare(a.ID, b.ID) },
		func(l Lease) string { return fmt.Sprintf("%x", l.ID) }, diffLease)
	if want.AuthEnabled != got.AuthEnabled {
		r.add("auth enabled: want %v, got %v", want.AuthEnabled, got.AuthEnabled)
	}
	compare(&r, "user", want.Users, got.Users, func(a, b User) int { return cmp.Compare(a.Name, b.Name) },
		func(u User) string { return fmt.Sprintf("%q", u.Name) },
		func(a, b User) string { return diffList("roles", a.Roles, b.Roles) })
	compare(&r, "role", want.Roles, got.Roles, func(a, b Role) int { return cmp.Compare(a.Name, b.Name) },
		func(x Role) string { return fmt.Sprintf("%q", x.Name) },
		func(a, b Role) string { return diffList("permissions", a.Permissions, b.Permissions) })
	return r.String()
}

// compare walks two sorted lists side by side.
func compare[T any](r *report, what string, want, got []T, order func(a, b T) int, name func(T) string, diff func(want, got T) string) {
	for len(want) > 0 || len(got) > 0 {
		switch {
		case len(got) == 0 || len(want) > 0 && order(want[0], got[0]) < 0:
			r.add("%s %s: missing", what, name(want[0]))
			want = want[1:]
		case len(want) == 0 || order(want[0], got[0]) > 0:
			r.add("%s %s: unexpected", what, name(got[0]))
			got = got[1:]
		default:
			if d := diff(want[0], got[0]); d != "" {
				r.add("%s %s: %s", what, name(want[0]), d)
			}
			want, got = want[1:], got[1:]
		}
	}
}

func diffKey(want, got Key) string {
	var parts []string
	number := func(what string, w, g int64) {
		if w != g {
			parts = append(parts, fmt.Sprintf("%s: want %d, got %d", what, w, g))
		}
	}
	if !bytes.Equal(want.Value, got.Value) {
		parts = append(parts, fmt.Sprintf("value: want %s, got %s", digest(want.Value), digest(got.Value)))
	}
	number("create revision", want.CreateRevision, got.CreateRevision)
	number("mod revision", want.ModRevision, got.ModRevision)
	number("version", want.Version, got.Version)
	if want.Lease != got.Lease {
		parts = append(parts, fmt.Sprintf("lease: want %x, got %x", want.Lease, got.Lease))
	}
	return strings.Join(parts, "; ")
}

func diffLease(want, got Lease) string {
	var parts []string
	if want.GrantedTTL != got.GrantedTTL {
		parts = append(parts, fmt.Sprintf("granted TTL: want %d s, got %d s", want.GrantedTTL, got.GrantedTTL))
	}
	if d := diffList("keys", want.Keys, got.Keys); d != "" {
		parts = append(parts, d)
	}
	return strings.Join(parts, "; ")
}

func diffList(what string, want, got []string) string {
	if slices.Equal(want, got) {
		return ""
	}
	if len(want) > 3 || len(got) > 3 { // a lease may hold a thousand keys
		return fmt.Sprintf("%s: want %d, got %d, not the same ones", what, len(want), len(got))
	}
	return fmt.Sprintf("%s: want %q, got %q", what, want, got)
}

func digest(value []byte) string {
	sum := sha256.Sum256(value)
	return fmt.Sprintf("%d bytes with sha256 %x...", len(value), sum[:4])
}

// report collects lines and counts those that it does not keep.
type report struct {
	lines []string
	more  int
}

func (r *report) add(format string, args ...any) {
	if len(r.lines) == maxLines {
		r.more++
		return
	}
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *report) String() string {
	text := strings.Join(r.lines, "\n")
	if r.more > 0 {
		text += fmt.Sprintf("\n... and %d more differences", r.more)
	}
	return text
}
