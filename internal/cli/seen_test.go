package cli

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// TestSeenOf: of a time what leases said then counts, though others came after them; otherwise the last one does.
func TestSeenOf(t *testing.T) {
	root, err := repository.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	repo, err := repository.Init(t.Context(), mem.New(), root, repository.None, nil)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := repository.OpenWriter(filepath.Join(t.TempDir(), "signer"))
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Enroll(t.Context(), root, writer.Public(), repository.RoleBackup, "test"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i := range 15 {
		lease := repository.Lease{Cluster: "prod", Timeline: testLine, Session: repository.NewSession(), Revision: history.Revision(i + 1), AsOf: began}
		if i%2 == 1 {
			lease.AsOf = time.Time{} // it does not know
		}
		if _, err := repo.PutLease(t.Context(), writer, lease); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		near time.Time
		want []history.Revision
	}{{time.Time{}, []history.Revision{15}}, {began, []history.Revision{15, 1, 3, 5, 7, 9}}, {time.Now().Add(time.Second), []history.Revision{15}}} {
		seen, err := seenOf(t.Context(), repo, "prod", tt.near)
		if err != nil || len(seen) != len(tt.want) {
			t.Fatalf("near %s: %+v, %v", tt.near, seen, err)
		}
		for i, s := range seen {
			if s.Revision != tt.want[i] || s.Timeline != testLine || !s.At.Equal(began.Truncate(time.Millisecond)) {
				t.Errorf("near %s: %+v, want %v", tt.near, seen, tt.want)
			}
		}
	}
}
