package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-project/holdfast/internal/action"
)

// TestSecretsStayWhereTheyAre runs everything that touches data, well and badly, and then looks for a key, a value, the
// private keys and a variable of the agent's environment in all that people, logs and other processes get to see.
func TestSecretsStayWhereTheyAre(t *testing.T) {
	const canary = "canary-7f3a1c"
	t.Setenv("AWS_SECRET_ACCESS_KEY", canary+"-variable")
	f := newFixture(t)
	f.run(t)
	f.healthy(t)
	_, err := f.etcd(t).Put(t.Context(), "/registry/secrets/"+canary+"-key", canary+"-value")
	must(t, err)
	secrets := []string{canary}
	for _, key := range []string{f.config.TLS.Key, f.config.Record.TLS.Key, f.config.Record.ServerTLS.Key, f.config.Record.PeerTLS.Key} {
		pem, err := os.ReadFile(key)
		must(t, err)
		secrets = append(secrets, strings.Split(string(pem), "\n")[1]) // a line from the middle of the key
	}
	watched := watchProcesses(t, secrets)

	archive := result(t, f.do(t, "snapshot", nil), "snapshot.path")
	content, err := os.ReadFile(f.inRoot(archive))
	must(t, err)
	damaged := bytes.Clone(content)
	damaged[len(damaged)/2] ^= 1
	must(t, os.WriteFile(f.inRoot("/home/ubuntu/damaged.tar.gz"), damaged, 0o600))
	must(t, os.WriteFile(f.inRoot("/home/ubuntu/none.tar.gz"), []byte(canary), 0o600))
	client := f.operator(t)
	_, err = client.PutResource(t.Context(), "snapshot", bytes.NewReader(content), int64(len(content)))
	must(t, err)
	for _, bad := range []action.Params{
		{"path": "/home/ubuntu/damaged.tar.gz"}, {"path": "/home/ubuntu/none.tar.gz"}, {"path": "/none"}, {"sha256": strings.Repeat("0", 64)}, {"source-version": "9.9"},
	} {
		if task := f.do(t, "restore", bad); task.Status != action.Failed {
			t.Errorf("restore %v is %s", bad, task.Status)
		}
	}
	restored := f.do(t, "restore", nil)
	if result(t, restored, "restore.keys") != "1" || result(t, restored, "restore.old-data") == "" || result(t, restored, "backup.path") == "" {
		t.Errorf("results %v", restored.Results)
	}
	if got := f.value(t, "/registry/secrets/"+canary+"-key"); got != canary+"-value" {
		t.Errorf("restored is %q", got)
	}
	f.do(t, "health", nil)
	f.do(t, "package-client-credentials", nil)
	watched()

	state, err := client.Unit(t.Context())
	must(t, err)
	tasks, err := client.Tasks(t.Context())
	must(t, err)
	seen := map[string]string{"agent log": f.log.String(), "state": asJSON(t, state), "tasks": asJSON(t, tasks)}
	must(t, filepath.WalkDir(f.config.StateDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), "snapshot-") { // an attached archive is compressed data
			return err
		}
		content, err := os.ReadFile(path)
		seen[path] = string(content)
		return err
	}))
	sides, err := filepath.Glob(f.inRoot("/home/ubuntu/*/*.tar.gz.*"))
	must(t, err)
	for _, side := range sides {
		content, err := os.ReadFile(side)
		must(t, err)
		seen[side] = string(content)
	}
	if len(sides) != 2 || len(seen) < 8 || len(tasks) != 9 {
		t.Errorf("%d tasks, %d side files, %d places", len(tasks), len(sides), len(seen))
	}
	for place, text := range seen {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %.12s… in it", place, secret)
			}
		}
	}
	// What does hold them is the owner's alone, and nothing lies about.
	must(t, filepath.WalkDir(filepath.Dir(f.config.StateDir), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			err = fmt.Errorf("%q has mode %s", path, info.Mode())
		}
		return err
	}))
	if scratch, err := os.ReadDir(filepath.Join(f.config.StateDir, "scratch")); err == nil && len(scratch) != 0 {
		t.Errorf("the scratch folder holds %v", scratch)
	}
}

func asJSON(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	return string(text)
}

// watchProcesses reads the arguments and environments of all processes again and again, until the returned function is
// called.
func watchProcesses(t *testing.T, secrets []string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	etcds := 0
	watching.Go(func() {
		for ctx.Err() == nil {
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, cmdline := range files {
				for _, file := range []string{cmdline, filepath.Join(filepath.Dir(cmdline), "environ")} {
					text, _ := os.ReadFile(file) // it may have ended
					for _, secret := range secrets {
						if bytes.Contains(text, []byte(secret)) {
							t.Errorf("%q: %q", file, text)
						}
					}
					if bytes.Contains(text, []byte("--name=etcd-0")) {
						etcds++
					}
				}
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
		if etcds == 0 {
			t.Error("no etcd was seen")
		}
	}
}
