package repository

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestLostEnrolment tells of a signer whose enrolment is lost once, and not once for each of its manifests.
func TestLostEnrolment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, None)
	for range 3 {
		w.add(t, "prod", backend(t, 0))
	}
	w.add(t, "other", backend(t, 1))
	_, heads, err := w.Check(t.Context(), nil)
	must(t, err)
	self := w.writer.Public().Fingerprint()
	must(t, w.store.Delete(t.Context(), signerName(self, RoleBackup)))
	result, _, err := w.Fresh().Check(t.Context(), heads)
	must(t, err)
	if len(result.Problems) != 1 || !strings.HasPrefix(result.Problems[0], `manifest "clusters/other/`) ||
		!strings.HasSuffix(result.Problems[0], "signer "+self.Short()+", role backup: key is not enrolled in this repository; the same is true of 3 other objects") {
		t.Errorf("problems %q", result.Problems)
	}
	// That manifests which were there are missing is still seen where none of theirs is there.
	for _, name := range w.names(t) {
		if strings.Contains(name, manifestPart) {
			must(t, w.store.Delete(t.Context(), name))
		}
	}
	result, _, err = w.Fresh().Check(t.Context(), heads)
	must(t, err)
	if !slices.ContainsFunc(result.Problems, func(p string) bool { return strings.Contains(p, "it and those up to 4 were there, and are missing") }) {
		t.Errorf("problems %q", result.Problems)
	}
}

func TestBySigner(t *testing.T) {
	t.Parallel()
	a, b := NotEnrolled{Signer: "aaaaaaaaaaaa", Role: RoleBackup}, NotEnrolled{Signer: "bbbbbbbbbbbb", Role: RoleBackup}
	verify := NotEnrolled{Signer: "aaaaaaaaaaaa", Role: RoleVerify}
	other, own := errors.New("other"), errors.New("one more")
	got := errors.Join(BySigner([]error{other, errors.Join(own, a), b, a, a, verify, verify, other})...)
	want := "other\none more\n" + a.Error() + "; the same is true of 2 other objects\n" + b.Error() + "\n" + verify.Error() + "; the same is true of 1 other object\nother"
	if got == nil || got.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", got, want)
	}
	for _, class := range []error{a, b, verify, ErrNotEnrolled} {
		if !errors.Is(got, class) {
			t.Errorf("it is no %v any more", class)
		}
	}
	if BySigner(nil) != nil {
		t.Error("something of nothing")
	}
}
