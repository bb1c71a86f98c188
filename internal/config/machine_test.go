package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadMachine(t *testing.T) {
	home := t.TempDir()
	if m, file, err := LoadMachine("", home); err != nil || file != "" || m.Repository.URL != "" {
		t.Errorf("none: %+v, %q, %v", m, file, err)
	}
	own := filepath.Join(home, MachineFile)
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(own, "repository:\n  url: file:///srv/backups\n  cluster: prod\n  identity: [/root/key]\n")
	m, file, err := LoadMachine("", home)
	if err != nil || file != own || m.Repository.URL != "file:///srv/backups" || m.Repository.Cluster != "prod" || len(m.Repository.Identity) != 1 {
		t.Errorf("in home: %+v, %q, %v", m, file, err)
	}
	if m.Archive != (Archive{}) {
		t.Errorf("nothing is said of an archive: %+v", m.Archive)
	}
	write(own, "archive: {enabled: true, flush: 250ms, spool-limit: 64MiB, snapshot-every: 12h, hash-every: 1m, takeover: 3s}\n")
	want := Archive{Enabled: true, Flush: 250 * time.Millisecond, SpoolLimit: 64 << 20, SnapshotEvery: 12 * time.Hour, HashEvery: time.Minute, Takeover: 3 * time.Second}
	if m, _, err := LoadMachine("", home); err != nil || m.Archive != want {
		t.Errorf("archive %+v, %v", m.Archive, err)
	}
	write(own, "archive: {flush: 1, spool-limit: 1kB, snapshot-every: -1h, hash-every: 1s, takeover: 2h}\n")
	_, _, err = LoadMachine("", home)
	for _, field := range []string{"flush", "spool-limit", "snapshot-every", "hash-every", "takeover"} {
		if err == nil || !strings.Contains(err.Error(), "archive."+field+": want ") {
			t.Errorf("%v, which does not name %s", err, field)
		}
	}
	other := filepath.Join(home, "other.yaml")
	write(other, "")
	if m, file, err := LoadMachine(other, home); err != nil || file != other || m.Repository.URL != "" {
		t.Errorf("explicit: %+v, %q, %v", m, file, err)
	}
	if _, _, err := LoadMachine(filepath.Join(home, "absent"), home); err == nil {
		t.Error("a file that was named and is not there passes")
	}
	for text, want := range map[string]string{
		"repository:\n  uri: x\n":             "uri",
		"repository:\n  identity: [key]\n":    "absolute",
		"repository: {}\n---\nrepository: {}": "one YAML document",
		"archive: {enable: true}":             "enable",
		"archive: {flush: soon}":              "soon",
		"archive: {spool-limit: much}":        "no size",
		"archive: {spool-limit: 16EiB}":       "no size",
		"\t":                                  "yaml",
	} {
		write(own, text)
		if _, _, err := LoadMachine("", home); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), own) {
			t.Errorf("%q: %v, want %q and the file", text, err, want)
		}
	}
}
