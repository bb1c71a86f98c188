package location

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
)

func TestFolder(t *testing.T) {
	checkParse(t, map[string]string{
		"file:///srv/backups":         "",
		"file:///srv//a/../backups/":  "file:///srv/backups",
		"FILE:///srv/backups":         "file:///srv/backups",
		"file:///a%20b":               "",
		"file:///srv/50%25%3F%23full": "file:///srv/50%25%3F%23full",
	})
	checkRefused(t, map[string]string{
		"file:":                 "absolute",
		"file://":               "absolute",
		"file:///":              "not the root folder",
		"file:///a/..":          "not the root folder",
		"file://srv/backups":    "three slashes",
		"file:srv":              "absolute",
		"file:///a?b=c":         "no options",
		"file:///a?":            "no options",
		"file:///a#b":           "after #",
		"file://hunter2@/x":     "name or password",
		"file:///a?key=hunter2": "no options",
	})
	checkPlaces(t, map[string]string{"file:///srv/x": "file:///srv/x", "file:///srv//x/": "file:///srv/x"})
}

func TestOpenFolder(t *testing.T) {
	at, err := Parse("file://" + filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := at.Open(t.Context(), Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a missing folder: %v", err)
	}
	for _, create := range []bool{true, false} {
		if _, err := at.Open(t.Context(), Options{Create: create}); err != nil {
			t.Errorf("create %v: %v", create, err)
		}
	}
}
