package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/api"
)

// attachedFiles lists what is in the folder of resources.
func (f *fixture) attachedFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, path := range f.files(t, filepath.Join(f.config.StateDir, "resources")) {
		names = append(names, filepath.Base(path))
	}
	return names
}

func TestAttach(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	stop := f.serve(t, a)
	ctx, client := t.Context(), f.operator(t)
	if _, _, err := a.resources.Path("snapshot"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before anything is attached: %v", err)
	}
	contents := [][]byte{bytes.Repeat([]byte("first "), 1<<20), {}, []byte("third")}
	for i, content := range contents {
		got, err := client.PutResource(ctx, "snapshot", bytes.NewReader(content), int64(len(content)))
		must(t, err)
		sum := sha256.Sum256(content)
		if got.Name != "snapshot" || got.Revision != i+1 || got.Size != int64(len(content)) || got.SHA256 != hex.EncodeToString(sum[:]) || got.Attached.IsZero() || got.Error != "" {
			t.Errorf("attached %+v", got)
		}
		path, told, err := a.resources.Path("snapshot")
		must(t, err)
		if told != got.SHA256 {
			t.Errorf("sha256 %q, want %q", told, got.SHA256)
		}
		stored, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		must(t, errors.Join(err, statErr))
		if !bytes.Equal(stored, content) || info.Mode() != 0o600 {
			t.Errorf("revision %d holds %d bytes, mode %s", got.Revision, len(stored), info.Mode())
		}
		state, err := client.Unit(ctx)
		if err != nil || state.Resources["snapshot"] != got {
			t.Errorf("the unit says %+v: %v", state.Resources, err)
		}
	}
	want := []string{"snapshot-3", "snapshot.json"}
	if got := f.attachedFiles(t); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	// An attach that is cut off changes nothing.
	for _, chunked := range []bool{false, true} {
		f.cut(t, "/v1/resources/snapshot", contents[0][:2<<20], chunked)
	}
	if got := f.attachedFiles(t); !slices.Equal(got, want) {
		t.Errorf("files after cut uploads %q, want %q", got, want)
	}
	if content, err := os.ReadFile(filepath.Join(f.config.StateDir, "resources", "snapshot-3")); err != nil || string(content) != "third" {
		t.Errorf("the attached file is %.20q: %v", content, err)
	}
	if log := f.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("log:\n%s", log)
	}
	// What is attached outlives the agent, and who attaches while another does waits for nobody.
	stop()
	again := f.open(t)
	f.serve(t, again)
	slow, feed := io.Pipe()
	first := make(chan api.Resource, 1)
	go func() {
		r, err := f.operator(t).PutResource(ctx, "snapshot", slow, 4)
		if err != nil {
			t.Error(err)
		}
		first <- r
	}()
	_, err := feed.Write([]byte("sl")) // it is on its way
	must(t, err)
	if got, err := client.PutResource(ctx, "snapshot", strings.NewReader("quick"), 5); err != nil || got.Revision != 4 {
		t.Errorf("while another is on its way: %+v, %v", got, err)
	}
	_, err = feed.Write([]byte("ow"))
	must(t, err)
	if got := <-first; got.Revision != 5 {
		t.Errorf("the one that took longer is %+v", got)
	}
	if got := f.attachedFiles(t); !slices.Equal(got, []string{"snapshot-5", "snapshot.json"}) {
		t.Errorf("files %q", got)
	}
}

// TestDamagedRecord wants a unit with a bad record to say so, to answer all the same, and to be healed by the next attach.
func TestDamagedRecord(t *testing.T) {
	for name, content := range map[string]string{
		"cut":           `{"name":"snap`,
		"empty":         "",
		"another name":  `{"name":"other","revision":3}`,
		"no revision":   `{"name":"snapshot"}`,
		"negative":      `{"name":"snapshot","revision":-1}`,
		"not an object": `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			folder := filepath.Join(f.config.StateDir, "resources")
			must(t, os.MkdirAll(folder, 0o700))
			must(t, os.WriteFile(filepath.Join(folder, "snapshot.json"), []byte(content), 0o600))
			must(t, os.WriteFile(filepath.Join(folder, "snapshot-7"), []byte("somebody's only copy"), 0o600))
			a := f.open(t)
			f.serve(t, a)
			state, err := f.operator(t).Unit(t.Context())
			must(t, err)
			if got := state.Resources["snapshot"]; got.Name != "snapshot" || !strings.Contains(got.Error, "it is damaged, attach the file again: ") || strings.Contains(got.Error, "%!") {
				t.Errorf("the unit says %+v", got)
			}
			if _, _, err := a.resources.Path("snapshot"); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("path: %v", err)
			}
			if got := f.attachedFiles(t); !slices.Contains(got, "snapshot-7") {
				t.Errorf("what the record may have meant is gone: %q", got)
			}
			attached, err := f.operator(t).PutResource(t.Context(), "snapshot", strings.NewReader("new"), 3)
			if err != nil || attached.Revision != 8 {
				t.Errorf("attached %+v: %v", attached, err)
			}
			if got := f.attachedFiles(t); !slices.Equal(got, []string{"snapshot-8", "snapshot.json"}) {
				t.Errorf("files %q", got)
			}
		})
	}
}

// TestFailedAttachKeepsTheOld makes an attach fail before and after its content has a name: the old revision stays.
func TestFailedAttachKeepsTheOld(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	f.serve(t, a)
	client := f.operator(t)
	_, err := client.PutResource(t.Context(), "snapshot", strings.NewReader("old"), 3)
	must(t, err)
	folder := filepath.Join(f.config.StateDir, "resources")
	for name, moved := range map[string]string{"no folder": folder, "a folder in the place of the record": filepath.Join(folder, "snapshot.json")} {
		must(t, os.Rename(moved, moved+".away"))
		if moved != folder {
			must(t, os.MkdirAll(filepath.Join(moved, "full"), 0o700))
		}
		_, err := client.PutResource(t.Context(), "snapshot", strings.NewReader("new"), 3)
		if status, is := errors.AsType[*api.StatusError](err); !is || status.Code != http.StatusInternalServerError || !strings.HasPrefix(err.Error(), `attach resource "snapshot": `) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, os.RemoveAll(moved))
		must(t, os.Rename(moved+".away", moved))
		path, _, err := a.resources.Path("snapshot")
		must(t, err)
		if content, err := os.ReadFile(path); err != nil || string(content) != "old" {
			t.Errorf("%s: %q is attached: %v", name, content, err)
		}
	}
}

// TestLeftoversOfAnAttach opens an agent on what one that died in an attach has left.
func TestLeftoversOfAnAttach(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	folder := filepath.Join(f.config.StateDir, "resources")
	must(t, os.MkdirAll(folder, 0o700))
	for name, content := range map[string]string{
		"snapshot.json":            `{"name":"snapshot","revision":2}`,
		"snapshot-1":               "it was about to go",
		"snapshot-2":               "what counts",
		"snapshot-3":               "its record was not written",
		"snapshot.x.part":          "half",
		".snapshot.json.tmp-12345": `{"name":"snapshot","revi`,
	} {
		must(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
	}
	a := f.open(t)
	defer a.Close()
	if got := f.attachedFiles(t); !slices.Equal(got, []string{"snapshot-2", "snapshot.json"}) {
		t.Errorf("files %q", got)
	}
	must(t, os.Remove(filepath.Join(folder, "snapshot.json")))
	must(t, a.resources.clear())
	if got := f.attachedFiles(t); len(got) != 0 {
		t.Errorf("files without a record %q", got)
	}
}
