package repository

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

const copiedLine Timeline = "0123456789abcdef"

// TestStreamSegmentData: what was written is there under the name that is given, with its size and sum. When the writer fails
// its error is given as it is and nothing is there; when the store fails, the store's.
func TestStreamSegmentData(t *testing.T) {
	w := newWorld(t, None)
	o, err := w.NewSegmentData("prod", copiedLine, 5, nil)
	must(t, err)
	content := bytes.Repeat([]byte("sealed"), 100_000)
	write := func(to io.Writer) error {
		_, err := io.Copy(to, bytes.NewReader(content))
		return err
	}
	own := errors.New("the source ended")
	_, err = w.StreamSegmentData(t.Context(), o, time.Time{}, func(to io.Writer) error {
		return errors.Join(write(to), own)
	})
	if !errors.Is(err, own) || strings.Contains(err.Error(), "put segment") || contains(w.names(t), "/segments/") {
		t.Errorf("a writer that failed: %v, %q", err, w.names(t))
	}
	got, err := w.StreamSegmentData(t.Context(), o, time.Time{}, write)
	must(t, err)
	sum := sha256.Sum256(content)
	if got.Name != o.Name || got.Size != int64(len(content)) || got.SHA256 != hex.EncodeToString(sum[:]) || !bytes.Equal(w.read(t, got.Name), content) {
		t.Errorf("object: %+v", got)
	}
	again, err := w.StreamSegmentData(t.Context(), o, time.Time{}, write)
	must(t, err)
	if again.Name == o.Name || again.SHA256 != got.SHA256 || !bytes.Equal(w.read(t, again.Name), content) {
		t.Errorf("a name that was taken: %+v", again)
	}
	faulty := faultstore.New(mem.New())
	repo, err := Init(t.Context(), faulty, w.root, None, nil)
	must(t, err)
	faulty.Add(faultstore.Fault{On: faultstore.Put, Do: faultstore.Cut, At: 1000})
	if _, err := repo.StreamSegmentData(t.Context(), o, time.Time{}, write); !errors.Is(err, faultstore.ErrInjected) {
		t.Errorf("a store that failed: %v", err)
	}
}

// TestCopyNotes: a note is copied once; where its place has the same of another signer it is as good, and other content is named.
func TestCopyNotes(t *testing.T) {
	a, b := newWorld(t, None), newWorld(t, None)
	other, err := OpenWriter(t.TempDir())
	must(t, err)
	must(t, b.Enroll(t.Context(), b.root, other.Public(), RoleBackup, "other"))
	gap := func(reason string) Gap {
		g, err := a.PutGap(t.Context(), a.writer, Gap{Cluster: "prod", Timeline: copiedLine, First: 5, Last: 9, Noticed: time.Now(), Reason: reason})
		must(t, err)
		return g
	}
	one, two, forged := gap("one"), gap("two"), gap("three")
	a.replace(t, forged.name(), bytes.Replace(a.read(t, forged.name()), []byte("three"), []byte("other"), 1))
	place := func(w *Writer, g Gap) error {
		g.Cluster, g.Repository, g.Signer = "far", b.document.Repository, w.key.Public().Fingerprint()
		return putNote(t.Context(), b.Repository, w, g)
	}
	copied, bad, err := b.CopyGaps(t.Context(), b.writer, a.Repository, "prod", "far", copiedLine)
	must(t, err)
	if copied != 2 || len(bad) != 1 || !errors.Is(bad[0], ErrForged) {
		t.Errorf("copied %d, bad %v", copied, bad)
	}
	// Whoever comes second.
	one.Cluster, one.Repository, one.Signer = "far", b.document.Repository, other.key.Public().Fingerprint()
	bare := func(g Gap) Gap { g.Copied, g.Signer = nil, ""; return g }
	if err := sameNote(t.Context(), b.Repository, one, bare); err != nil {
		t.Errorf("the same: %v", err)
	}
	two.Cluster, two.Reason = "far", "something else"
	if err := sameNote(t.Context(), b.Repository, two, func(g Gap) Gap { g = bare(g); g.Repository = ""; return g }); !errors.Is(err, ErrOtherContent) {
		t.Errorf("other content: %v", err)
	}
	if err := place(other, one); err == nil {
		t.Error("a note was replaced")
	}
	// An old note has no "copied", and is read.
	if bytes.Contains(a.read(t, gap("four").name()), []byte("copied")) {
		t.Error("an original says that it is a copy")
	}
	reads, _, err := b.Gaps(t.Context(), "far", copiedLine)
	must(t, err)
	for _, read := range reads {
		if read.Err != nil || read.Note.Copied == nil || read.Note.Copied.Repository != a.document.Repository || read.Note.Signer != b.writer.Public().Fingerprint() {
			t.Errorf("copied: %+v", read)
		}
	}
}
