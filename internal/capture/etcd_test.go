package capture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/member"
)

// TestRealMembers holds the rule of the size against every etcd: bytes of the first message, what it says remains, and the
// trailer. A stream that keeps it is a whole backend with its checksum.
func TestRealMembers(t *testing.T) {
	for _, version := range etcdtest.Versions(t) {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			secrets := etcdtest.NewTLS(t)
			server := etcdtest.Start(t, version, etcdtest.Options{TLS: secrets})
			_, err := kubeload.Fill(t.Context(), server.Client, kubeload.New(3, 200))
			must(t, err)
			client, err := member.Dial(server.Endpoint, secrets.Config)
			must(t, err)
			defer client.Close()
			s, err := Open(t.Context(), client, Automatic)
			must(t, err)
			defer s.Close()
			if s.limit == nil || s.limit.Limit() != DefaultLocalRate {
				t.Errorf("a member on this machine is paced by %v", s.limit)
			}
			got, err := io.ReadAll(s)
			must(t, err)
			data, trailer := got[:len(got)-trailerSize], got[len(got)-trailerSize:]
			if sum := sha256.Sum256(data); int64(len(got)) != s.Size() || !bytes.Equal(sum[:], trailer) || len(data)%4096 != 0 || len(data) == 0 {
				t.Errorf("%d bytes of %d do not end in their checksum", len(got), s.Size())
			}
			if want := map[string]string{"3.6": "3.6.0", "3.7": "3.7.0"}[version.Minor]; s.StorageVersion() != want {
				t.Errorf("storage version %q, want %q", s.StorageVersion(), want)
			}
			file := filepath.Join(t.TempDir(), "snapshot.db")
			must(t, os.WriteFile(file, got, 0o600))
			if out, err := version.UtlCommand(t.Context(), "snapshot", "status", file).CombinedOutput(); err != nil {
				t.Errorf("etcd's own tool: %v\n%s", err, out)
			}
			server.Kill()
			if _, err := Open(context.WithoutCancel(t.Context()), client, Automatic); err == nil {
				t.Error("a member that is gone gives a snapshot")
			}
		})
	}
}
