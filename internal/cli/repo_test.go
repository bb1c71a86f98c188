package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/location"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// TestRootKeyIsKeptWhereItMayCount fails a repo init before and after it has made the repository.
func TestRootKeyIsKeptWhereItMayCount(t *testing.T) {
	failure := errors.New("connection reset by peer")
	a := &app{Environment: Environment{Stderr: io.Discard}}
	at, err := location.Parse("file:///srv/backups")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		made bool
		err  error
		kept bool
	}{
		"nothing was made":       {false, failure, false},
		"the answer was lost":    {true, failure, true},
		"another one is there":   {true, store.ErrExists, false},
		"the store overwrites":   {false, errors.New("it lets an object be replaced"), false},
		"interrupted before all": {false, context.Canceled, false},
	} {
		s, file := mem.New(), filepath.Join(t.TempDir(), "root.key")
		if err := os.WriteFile(file, []byte("key"), 0o600); err != nil {
			t.Fatal(err)
		}
		if tt.made {
			root, err := repository.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := repository.Init(t.Context(), s, root, repository.None, nil); err != nil {
				t.Fatal(err)
			}
		}
		err := a.notMade(t.Context(), s, at, file, tt.err)
		_, statErr := os.Stat(file)
		if kept := statErr == nil; kept != tt.kept || err == nil || kept != strings.Contains(a.hint(err), "is kept") {
			t.Errorf("%s: kept %v, want %v; %v, hint %q", name, kept, tt.kept, err, a.hint(err))
		}
	}
}
