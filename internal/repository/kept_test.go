package repository

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

// TestKept loses the document of a repository and puts it back.
func TestKept(t *testing.T) {
	t.Parallel()
	s, trust := mem.New(), TrustFolder{Dir: t.TempDir()}
	root, err := NewKey()
	must(t, err)
	made, err := Init(t.Context(), s, root, None, nil)
	must(t, err)
	if err := CheckVacant(t.Context(), s); !errors.Is(err, store.ErrExists) {
		t.Errorf("where there is one: %v", err)
	}
	if _, err := trust.Kept("here", ""); !errors.Is(err, ErrNotKept) {
		t.Errorf("before it was seen: %v", err)
	}
	must(t, trust.Begin("here", made))
	if signed, err := trust.Kept("here", made.Root()); err != nil || !bytes.Equal(signed, made.signed) {
		t.Errorf("once it was made: %q, %v", signed, err)
	}
	must(t, os.Remove(trust.keptFile("here")))
	if _, _, err := trust.Open(t.Context(), s, "here", ""); err != nil {
		t.Fatal(err)
	}

	// What an Init left that was cut off does not count, nor does what others keep there; what a repository has does.
	empty := mem.New()
	_, err = store.PutBytes(t.Context(), empty, "holiday/photo.jpg", []byte("sea"), store.PutOptions{})
	must(t, err)
	_, err = store.PutBytes(t.Context(), empty, "probes/0123456789abcdef", []byte("first"), store.PutOptions{})
	must(t, err)
	must(t, CheckVacant(t.Context(), empty))
	_, err = store.PutBytes(t.Context(), empty, "signers/x.json", []byte("x"), store.PutOptions{})
	must(t, err)
	if orphaned, is := errors.AsType[*Orphaned](CheckVacant(t.Context(), empty)); !is || orphaned.Name != "signers/x.json" {
		t.Errorf("over objects: %v", orphaned)
	}
	if _, err := Init(t.Context(), empty, root, None, nil); !errors.Is(err, ErrNothingMade) {
		t.Errorf("made over objects: %v", err)
	}
	if _, err := empty.Stat(t.Context(), documentName); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the document: %v", err)
	}

	// It comes back as it was, and only as the trusted key signed it.
	must(t, trust.PutBack(t.Context(), empty, "here", ""))
	if again, err := Open(t.Context(), empty, made.Root()); err != nil || again.Document().Repository != made.Document().Repository {
		t.Errorf("put back: %v", err)
	}
	if err := trust.PutBack(t.Context(), empty, "here", ""); !errors.Is(err, store.ErrExists) {
		t.Errorf("put back over one: %v", err)
	}
	other, err := NewKey()
	must(t, err)
	forged, err := Init(t.Context(), mem.New(), other, None, nil)
	must(t, err)
	changed := bytes.Replace(made.signed, []byte(`"none"`), []byte(`"age"`), 1)
	for name, tt := range map[string]struct {
		content []byte
		trusted Fingerprint
		want    string
	}{
		"another key is trusted": {made.signed, other.Public().Fingerprint(), "another root key"},
		"signed by another":      {forged.signed, "", "another root key"},
		"changed":                {changed, "", "signature"},
		"empty":                  {nil, "", documentName},
	} {
		must(t, os.WriteFile(trust.keptFile("here"), tt.content, 0o600))
		err := trust.PutBack(t.Context(), mem.New(), "here", tt.trusted)
		if !errors.Is(err, ErrNotKept) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	// A look at the repository mends a copy that is damaged.
	if _, _, err := trust.Open(t.Context(), s, "here", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Kept("here", ""); err != nil {
		t.Error(err)
	}
}
