package sftp_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
	"github.com/holdfast-project/holdfast/internal/store/sftptest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// open opens a store that is closed with the test.
func open(t *testing.T, o sftp.Options) *sftp.Store {
	t.Helper()
	s, err := sftp.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestContract is for OpenSSH as it is, and for servers that lack some of what it has.
func TestContract(t *testing.T) {
	for name, subsystem := range map[string]string{
		"OpenSSH": "",
		"Renames": "internal-sftp -P hardlink",
		"Bare":    "internal-sftp -P hardlink,fsync,posix-rename",
		"Other":   helper("serve"), // another implementation
	} {
		t.Run(name, func(t *testing.T) {
			server := sftptest.Start(t, subsystem)
			var folders atomic.Int32
			storetest.Run(t, func(t *testing.T) store.Store {
				o := server.Options(fmt.Sprintf("new/%d", folders.Add(1)))
				t.Cleanup(func() { wantNothingTemporary(t, o.Path) })
				return open(t, o)
			})
		})
	}
}

// wantNothingTemporary checks that no Put has left something behind.
func wantNothingTemporary(t *testing.T, folder string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(folder, ".tmp"))
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	for _, entry := range entries {
		t.Errorf("left behind: %s", entry.Name())
	}
}

func TestModes(t *testing.T) {
	server := sftptest.Start(t, "internal-sftp -u 0000")
	o := server.Options("below/here")
	if _, err := open(t, o).Put(t.Context(), "a/b", strings.NewReader("x"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"..": 0o700, ".": 0o700, ".tmp": 0o700, "a": 0o700, "a/b": 0o600} {
		info, err := os.Stat(filepath.Join(o.Path, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: %v, %v; want %o", name, info.Mode(), err, want)
		}
	}
}
