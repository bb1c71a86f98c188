package location

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
	"github.com/holdfast-project/holdfast/internal/store/sftptest"
)

func TestSFTP(t *testing.T) {
	checkParse(t, map[string]string{
		"sftp://backup@nas.example/srv/backups":                        "",
		"sftp://backup@nas.example:22/srv/backups":                     "sftp://backup@nas.example/srv/backups",
		"sftp://backup@NAS.example:/srv//x/../backups/":                "sftp://backup@nas.example/srv/backups",
		"sftp://backup@nas.example:2222/srv":                           "",
		"sftp://backup@nas.example:02222/srv":                          "sftp://backup@nas.example:2222/srv",
		"sftp://backup@[2001:DB8::1]/srv":                              "sftp://backup@[2001:db8::1]/srv",
		"sftp://backup@[2001:db8::1]:2222/srv":                         "",
		"sftp://backup@[fe80::1%25eth0]/srv":                           "",
		"sftp://some%40one@nas.example/srv/a%20b%3F":                   "",
		"sftp://b@h/srv?known-hosts=/etc/hosts&identity-file=/etc/key": "sftp://b@h/srv?identity-file=/etc/key&known-hosts=/etc/hosts",
	})
	checkRefused(t, map[string]string{
		"sftp://":                              "host",
		"sftp:backup@nas.example":              "want sftp://USER@HOST/PATH",
		"sftp://nas.example/srv":               "user",
		"sftp://@nas.example/srv":              "user",
		"sftp://backup:hunter2@nas.example/a":  "name or password",
		"sftp://backup:@nas.example/a":         "name or password",
		"sftp://b%20b@nas.example/a":           "user",
		"sftp://backup@/srv":                   "host",
		"sftp://backup@-oProxyCommand=x/srv":   "host",
		"sftp://backup@nas.example":            "path",
		"sftp://backup@nas.example/":           "path",
		"sftp://backup@nas.example/a/..":       "path",
		"sftp://backup@nas.example:0/srv":      "port",
		"sftp://backup@nas.example:70000/srv":  "port",
		"sftp://backup@nas.example/srv#a":      "after #",
		"sftp://b@h/srv?password=hunter2":      `option "password" is not known; known are identity-file, known-hosts`,
		"sftp://b@h/srv?identity-file=id":      `option "identity-file" must be an absolute path`,
		"sftp://b@h/srv?known-hosts=~/.ssh/k":  `option "known-hosts" must be an absolute path`,
		"sftp://b@h/srv?known-hosts=":          "once",
		"sftp://b@h/srv?known-hosts=%zhunter2": "want sftp://USER@HOST/PATH",
	})
	checkPlaces(t, map[string]string{
		"sftp://backup@Nas:22/srv/?identity-file=/a&known-hosts=/b": "sftp://backup@nas/srv",
		"sftp://backup@nas:2222/srv":                                "sftp://backup@nas:2222/srv",
	})
	got, err := Parse("sftp://backup@nas/srv/x?identity-file=/key&known-hosts=/hosts")
	want := sftp.Options{Host: "nas:22", User: "backup", Path: "/srv/x", IdentityFile: "/key", KnownHosts: "/hosts", Create: true}
	if f, is := got.(sftpFolder); err != nil || !is || !cmp.Equal(f.driver(true), want) {
		t.Errorf("all options: %+v, %v", got, err)
	}
}

// TestOpenSFTP reads and writes a folder by its address, which is made only when that is asked for.
func TestOpenSFTP(t *testing.T) {
	server := sftptest.Start(t, "")
	folder := filepath.Join(server.Data, "prod", "etcd")
	address := "sftp://" + server.User + "@" + server.Host + folder + "?identity-file=" + server.Identity + "&known-hosts=" + server.KnownHosts
	if _, err := write(t, address, Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a missing folder: %v", err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
	if _, err := write(t, address, Options{Create: true}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(folder, "a", "b")); err != nil || info.Size() != 7 {
		t.Errorf("in the folder: %v, %v", info, err)
	}
	if _, err := write(t, address, Options{}); !errors.Is(err, store.ErrExists) {
		t.Errorf("the second time: %v", err)
	}
}
