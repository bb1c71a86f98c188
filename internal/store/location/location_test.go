package location

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{"file:///srv/backups": "file:///srv/backups", "file:///srv//a/../backups/": "file:///srv/backups", "file:///a%20b": "file:///a%20b"} {
		got, err := Parse(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/srv", "file:", "file://", "file:///", "file://srv/backups", "file:srv", "file:///a?b=c", "file:///a#b", "s4://x/y", "ftp://user:hunter2@host/x", "://hunter2", "file://hunter2@/x"} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q passes", text)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestOpen(t *testing.T) {
	at, err := Parse("file://" + filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := at.Open(t.Context(), false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a missing folder: %v", err)
	}
	for _, create := range []bool{true, false} {
		if _, err := at.Open(t.Context(), create); err != nil {
			t.Errorf("create %v: %v", create, err)
		}
	}
}
