package location

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
)

// checkParse reads addresses, each of which has one form; "" wants the text as it is.
func checkParse(t *testing.T, texts map[string]string) {
	t.Helper()
	for text, want := range texts {
		if want == "" {
			want = text
		}
		got, err := Parse(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v, %v; want %q", text, got, err, want)
			continue
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q read again: %+v, %v; want %+v", got, again, err, got)
		}
	}
}

// checkRefused reads addresses that are none. Each error says why, and nothing that could be a secret: "hunter2".
func checkRefused(t *testing.T, texts map[string]string) {
	t.Helper()
	for text, want := range texts {
		got, err := Parse(text)
		if err == nil || got != nil {
			t.Errorf("%q passes as %+v, %v", text, got, err)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// checkPlaces wants the same for all who look at one place. People's trust is remembered by these texts.
func checkPlaces(t *testing.T, texts map[string]string) {
	t.Helper()
	for text, want := range texts {
		at, err := Parse(text)
		if err != nil || at.Place() != want {
			t.Errorf("%q: %v, %v; want %q", text, at, err, want)
			continue
		}
		if place, err := Parse(at.Place()); err != nil || place.Place() != want {
			t.Errorf("the place of %q read again: %v, %v", text, place, err)
		}
	}
}

// write puts an object at an address, with the options of a person who has these variables.
func write(t *testing.T, address string, opts Options) (store.Store, error) {
	t.Helper()
	at, err := Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	s, err := at.Open(t.Context(), opts)
	if err != nil {
		return nil, err
	}
	_, err = store.PutBytes(t.Context(), s, "a/b", []byte("content"), store.PutOptions{})
	return s, err
}

func TestParseRefuses(t *testing.T) {
	checkRefused(t, map[string]string{
		"":                           "no address",
		"/srv":                       "no address; want one of file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, azblob://CONTAINER/PREFIX?account=NAME, sftp://USER@HOST/PATH",
		"s4://x/y":                   `scheme "s4" is not known; known are azblob, file, gs, s3, sftp`,
		"ftp://user:hunter2@host/x":  "name or password",
		"user:hunter2@host/x":        `scheme "user" is not known`,
		"://hunter2":                 "cannot be read",
		"s3://bucket#hunter2":        "after #",
		"s3://bucket:hunter2":        "cannot be read",
		"s3://bucket/%zzhunter2":     "cannot be read",
		"s3:key:hunter2@bucket":      "want s3://BUCKET",
		"sftp:user:hunter2@host/x":   "want sftp://USER@HOST/PATH",
		"azblob:key:hunter2@bucket":  "want azblob://",
		"gs:key:hunter2@bucket":      "want gs://",
		"file:user:hunter2@/backups": "absolute",
	})
}

// TestOpenSaysNil opens what cannot be opened: the store is nil, and not a pointer that is.
func TestOpenSaysNil(t *testing.T) {
	for _, address := range []string{
		"file:///no/such/folder", "s3://bucket?ca-file=/none", "gs://bucket?ca-file=/none", "azblob://container?account=account&ca-file=/none",
	} {
		at, err := Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := at.Open(t.Context(), Options{}); s != nil || !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrFinal) {
			t.Errorf("%s: %v, %v", address, s, err)
		}
	}
}
