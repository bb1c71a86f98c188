package s3

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store/s3"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// bucketHome is a home whose repository is in a new bucket, and whose etcd holds some megabytes.
func bucketHome(t *testing.T, locks bool, megabytes int) (h *home.Home, server *s3test.Server, bucket string) {
	t.Helper()
	server = s3test.Start(t)
	bucket = server.Bucket(t, locks)
	h = home.New(t)
	h.Env = []string{"AWS_ACCESS_KEY_ID=" + server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + server.SecretKey,
		"HOLDFAST_REPO=s3://" + bucket + "?endpoint=" + server.Endpoint}
	h.Must(t, "deploy", "etcd")
	random := rand.NewChaCha8([32]byte{})
	for i := range megabytes {
		value := make([]byte, 1<<20)
		_, _ = random.Read(value) // It always fills it.
		if _, err := h.Etcd(t, "etcd/0").Put(t.Context(), fmt.Sprint("large/", i), string(value)); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(t.TempDir(), "root.key")
	h.Must(t, "repo", "init", "--encryption", "none", "--root-key", root)
	h.Must(t, "key", "enroll", "--root-key", root, "--role", "prune")
	return h, server, bucket
}

// count verifies everything and gives how many snapshots there are.
func count(t *testing.T, h *home.Home) int {
	t.Helper()
	if _, problems, code := h.Run(t, "verify", "--no-record"); code != 0 {
		t.Errorf("verify: exit code %d\n%s", code, problems)
	}
	var result struct{ Snapshots int }
	if err := json.Unmarshal([]byte(h.Must(t, "repo", "check", "--output", "json")), &result); err != nil {
		t.Fatal(err)
	}
	return result.Snapshots
}

// TestKilledBackup kills backups at 20 moments spread over their run: the repository always opens, no half snapshot shows,
// the next backup succeeds, and what was left can be swept.
func TestKilledBackup(t *testing.T) {
	h, server, bucket := bucketHome(t, false, 24)
	// At a pace, so that the upload of its parts takes most of the time.
	args := []string{"backup", "--cluster", "prod", "--unit", "etcd", "--max-rate", "40MB"}
	started := time.Now()
	h.Must(t, args...)
	whole := time.Since(started)
	const kills = 20
	there, cut := count(t, h), 0
	for i := range kills {
		cmd := exec.Command(h.Program, args...)
		cmd.Env = h.Environment()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(whole * time.Duration(i+1) / (kills + 1))
		_ = cmd.Process.Kill() // It may have ended.
		if cmd.Wait() != nil {
			cut++
		}
		now := count(t, h)
		if now < there || now > there+1 {
			t.Errorf("killed after %d of %d parts of its time: %d snapshots, were %d", i+1, kills+1, now, there)
		}
		there = now
	}
	left := server.Uploads(t, bucket)
	t.Logf("%d of %d were cut off; %d uploads are left", cut, kills, left)
	if cut < kills/2 || left == 0 {
		t.Errorf("%d of %d were cut off, and %d uploads are left: that proves little", cut, kills, left)
	}
	h.Must(t, args...)
	if now := count(t, h); now != there+1 {
		t.Errorf("after all: %d snapshots, want %d", now, there+1)
	}
	opened, err := s3.New(server.Options(bucket))
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := opened.Sweep(t.Context(), 0); err != nil || removed != left || server.Uploads(t, bucket) != 0 {
		t.Errorf("swept %d of %d, %v", removed, left, err)
	}
	if now := count(t, h); now != there+1 {
		t.Errorf("after the sweep: %d snapshots, want %d", now, there+1)
	}
}

// TestLocks: nobody deletes a snapshot before its time, and prune says until when.
func TestLocks(t *testing.T) {
	h, _, _ := bucketHome(t, true, 1)
	backup := func(more ...string) string {
		if _, err := h.Etcd(t, "etcd/0").Put(t.Context(), "key", "value"); err != nil { // the order is that of revisions
			t.Fatal(err)
		}
		var m struct{ ID string }
		if err := json.Unmarshal([]byte(h.Must(t, append([]string{"backup", "--cluster", "prod", "--unit", "etcd", "--output", "json"}, more...)...)), &m); err != nil {
			t.Fatal(err)
		}
		return m.ID
	}
	locked, free := backup("--retain-for", "2h"), backup()
	backup()
	said := h.Must(t, "prune", "--keep-last", "1", "--yes")
	if !strings.Contains(said, "1 snapshot removed") || !strings.Contains(said, "1 snapshot locked") || !strings.Contains(said, "locked until 20") {
		t.Errorf("prune says:\n%s", said)
	}
	list := h.Must(t, "list", "--output", "json")
	digits := func(id string) string { _, random, _ := strings.Cut(id, "-"); return random }
	if !strings.Contains(list, digits(locked)) || strings.Contains(list, digits(free)) {
		t.Errorf("list:\n%s", list)
	}
	if n := count(t, h); n != 2 {
		t.Errorf("%d snapshots", n)
	}
}
