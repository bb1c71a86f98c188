package v2

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// refuses wants an archive refused for a reason, and that etcd has not noticed.
func (u target) refuses(t *testing.T, file, want string) {
	t.Helper()
	before, keys := u.process(t), len(u.store.read(t))
	const there = "/home/ubuntu/refused.tar.gz" // what is not right cannot even be attached
	u.home.Must(t, "scp", "--overwrite", file, u.name+":"+there)
	task := u.home.Action(t, u.name, "restore", "path="+there)
	if task.Status != "failed" || !strings.HasPrefix(task.Message, "restore refused: ") || !strings.Contains(task.Message, want) {
		t.Errorf("restore of %s: %s: %q, want %q", filepath.Base(file), task.Status, task.Message, want)
	}
	if after := u.process(t); after != before || len(u.store.read(t)) != keys {
		t.Errorf("etcd was process %d and is %d now", before, after)
	}
	u.clean(t)
}

func (u target) process(t *testing.T) int {
	t.Helper()
	state, err := u.home.Agent(t, u.name).Unit(t.Context())
	must(t, err)
	return state.Etcd.PID
}

// damaged copies an archive, one byte of a value in its log changed. The archive itself is sound.
func damaged(t *testing.T, file string) string {
	t.Helper()
	packed, err := os.Open(file)
	must(t, err)
	defer packed.Close()
	unzipped, err := gzip.NewReader(packed)
	must(t, err)
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	from, to := tar.NewReader(unzipped), tar.NewWriter(zipped)
	changed := false
	for {
		header, err := from.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		content, err := io.ReadAll(from)
		must(t, err)
		// A raft snapshot can have taken the puts of the load out of the log; the marker of the backup is always there.
		for _, word := range []string{"/load/1/", "_holdfast-marker-"} {
			if at := bytes.Index(content, []byte(word)); at > 0 && strings.HasSuffix(header.Name, ".wal") {
				content[at+1] ^= 1
				changed = true
				break
			}
		}
		must(t, to.WriteHeader(header))
		_, err = to.Write(content)
		must(t, err)
	}
	must(t, errors.Join(to.Close(), zipped.Close()))
	if !changed {
		t.Fatal("nothing to damage in the log of the archive")
	}
	copied := filepath.Join(t.TempDir(), "damaged.tar.gz")
	must(t, os.WriteFile(copied, out.Bytes(), 0o600))
	return copied
}

// refuseAll tries what cannot work, in both directions, on units where the v2 store is missing for one reason each.
func refuseAll(t *testing.T, h *home.Home, from *source) {
	off, gone, bare := etcdtest.Get(t, "3.5"), etcdtest.Get(t, "3.6"), etcdtest.Get(t, "3.4")
	h.Must(t, "deploy", "etcd", "off", "--etcd-binary", off.Server)
	h.Must(t, "deploy", "etcd", "gone", "--etcd-binary", gone.Server)
	h.Must(t, "deploy", "etcd", "bare", "--etcd-binary", bare.Server, "--etcd-arg=--enable-v2", "--etcd-tools", t.TempDir())
	for application, want := range map[string]struct{ snapshot, restore string }{
		"off":  {"etcd " + off.Full + " has no v2 store in use: it runs without --enable-v2", "etcd " + off.Full + " of the unit has no v2 store in use: it runs without --enable-v2"},
		"gone": {"etcd " + gone.Full + " has no v2 store: 3.5 was the last that had one", "etcd " + gone.Full + " has no v2 store"},
		"bare": {"a backup of the v2 store needs the etcdctl of etcd 3.4: ", "data of etcd 3.5 cannot be opened by etcd 3.4"},
	} {
		name := application + "/0"
		task := h.Action(t, name, "snapshot", "keys-version=v2")
		if task.Status != "failed" || !strings.HasPrefix(task.Message, want.snapshot) {
			t.Errorf("snapshot of %s: %s: %q, want %q", name, task.Status, task.Message, want.snapshot)
		}
		if files, err := filepath.Glob(filepath.Join(h.Record(t, name).Root, "home", "ubuntu", "*", "*")); err != nil || len(files) > 0 {
			t.Errorf("snapshot of %s left %q, %v", name, files, err)
		}
		u := target{home: h, application: application, name: name}
		pid := u.process(t)
		h.Must(t, "attach-resource", application, "snapshot="+from.quiet.file)
		task = h.Action(t, name, "restore")
		if task.Status != "failed" || !strings.HasPrefix(task.Message, "restore refused: ") || !strings.Contains(task.Message, want.restore) {
			t.Errorf("restore into %s: %s: %q, want %q", name, task.Status, task.Message, want.restore)
		}
		if after := u.process(t); after != pid {
			t.Errorf("restore into %s: etcd was process %d and is %d now", name, pid, after)
		}
		u.clean(t)
	}
}
