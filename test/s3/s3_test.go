// Package s3 runs the program as a person does against a real S3 server.
package s3

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

func TestMain(m *testing.M) { os.Exit(home.Main(m)) }

func TestRepository(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t, false)
	repo := "s3://" + bucket + "/clusters?endpoint=" + server.Endpoint
	h := home.New(t)
	h.Env = []string{"AWS_ACCESS_KEY_ID=" + server.AccessKey, "AWS_SECRET_ACCESS_KEY=" + server.SecretKey, "HOLDFAST_REPO=" + repo}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }

	h.Must(t, "deploy", "etcd")
	for _, key := range []string{"/registry/a", "/registry/b", "/registry/c"} {
		if _, err := h.Etcd(t, "etcd/0").Put(t.Context(), key, strings.Repeat("value", 1000)); err != nil {
			t.Fatal(err)
		}
	}
	recipient := strings.TrimSpace(h.Must(t, "key", "generate", in("key.txt")))
	h.Must(t, "repo", "init", "--recipient", recipient, "--root-key", in("root.key"))
	h.Must(t, "backup", "--cluster", "prod", "--unit", "etcd")
	said := h.Must(t, "backup", "--unit", "etcd", "--output", "json")
	var manifest struct {
		ID      string
		Object  struct{ Name string }
		Content struct{ Revision int64 }
	}
	if err := json.Unmarshal([]byte(said), &manifest); err != nil || manifest.Content.Revision != 4 {
		t.Fatalf("backup says %s, %v", said, err)
	}
	if list := h.Must(t, "list"); strings.Count(list, "prod") != 2 {
		t.Errorf("list:\n%s", list)
	}
	if said := h.Must(t, "verify", "--level", "checksum", "--identity", in("key.txt")); strings.Count(said, "checked, ") != 2 {
		t.Errorf("verify:\n%s", said)
	}
	h.Must(t, "restore", manifest.ID, "--identity", in("key.txt"), "--data-dir", in("data"))
	h.Must(t, "export", manifest.ID, in("snapshot.db"), "--identity", in("key.txt"))
	etcdtest.Get(t, "3.7").Restore(t, in("snapshot.db"), in("stock"))

	// What was done to the bucket shows.
	name := "clusters/" + manifest.Object.Name
	if err := server.Client.RemoveObject(t.Context(), bucket, name, minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, problems, code := h.Run(t, "repo", "check"); code != 3 || !strings.Contains(problems, manifest.Object.Name) {
		t.Errorf("repo check: exit code %d\n%s", code, problems)
	}

	// A wrong key and no bucket are told apart from a repository that is not there; nothing secret is said.
	for _, wrong := range []struct {
		what, key, repo, want string
		code                  int
	}{
		{"a wrong secret", "wrong-secret", repo, "SignatureDoesNotMatch", 1},
		{"no such bucket", server.SecretKey, "s3://no-such-bucket-here/x?endpoint=" + server.Endpoint, "NoSuchBucket", 10},
	} {
		h.Env = append(h.Env, "AWS_SECRET_ACCESS_KEY="+wrong.key)
		_, problems, code := h.Run(t, "list", "--repo", wrong.repo)
		if code != wrong.code || !strings.Contains(problems, wrong.want) || strings.Contains(problems, wrong.key) || strings.Contains(problems, "Signature=") {
			t.Errorf("%s: exit code %d\n%s", wrong.what, code, problems)
		}
	}
	if _, _, code := h.Run(t, "list", "--repo", "s3://"+bucket+"/elsewhere?endpoint="+server.Endpoint); code != 10 {
		t.Errorf("no repository there: exit code %d", code)
	}
	if _, problems, code := h.Run(t, "list", "--repo", "s3://"+bucket+"?endpoint=http://192.0.2.1"); code != 2 {
		t.Errorf("plain http to another machine: exit code %d\n%s", code, problems)
	}
}
