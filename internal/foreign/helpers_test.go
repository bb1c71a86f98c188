package foreign

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"compress/lzw"
	"compress/zlib"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"

	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// puts is how many keys the backend of the tests has; etcd's first revision is 1.
const puts = 300

// copied makes a backend with etcd's own storage, as a copy of member/snap/db is.
func copied(t testing.TB) []byte {
	t.Helper()
	cfg := backend.DefaultBackendConfig(zap.NewNop())
	cfg.Path = filepath.Join(t.TempDir(), "db")
	cfg.UnsafeNoFsync = true
	b := backend.New(cfg)
	tx := b.BatchTx()
	tx.LockOutsideApply()
	for _, bucket := range schema.AllBuckets {
		tx.UnsafeCreateBucket(bucket)
	}
	tx.Unlock()
	kv := mvcc.New(zap.NewNop(), b, &lease.FakeLessor{}, mvcc.StoreConfig{})
	random := rand.NewChaCha8([32]byte{7})
	for i := range puts {
		value := make([]byte, 900)
		if _, err := random.Read(value[:600]); err != nil {
			t.Fatal(err)
		}
		kv.Put(fmt.Appendf(nil, "/registry/pods/default/%d", i), value, 0)
	}
	b.ForceCommit()
	s := b.Snapshot()
	var out bytes.Buffer
	_, err := s.WriteTo(&out)
	kv.Close()
	if err := errors.Join(err, s.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// saved is the backend as etcd streams it, with the trailer.
func saved(t testing.TB) []byte {
	data := copied(t)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// packed gives what a compressor makes of data.
func packed(t testing.TB, data []byte, compressor func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var out bytes.Buffer
	w := compressor(&out)
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func toGzip(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
func toZlib(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }
func toLZW(w io.Writer) io.WriteCloser  { return lzw.NewWriter(w, lzw.LSB, 8) }

// zipFile is one entry of a zip file.
type zipFile struct {
	name string
	data []byte
	// change, where given, changes the header.
	change func(*zip.FileHeader)
}

// zipped makes a zip file as k3s does, whose archive/zip is this one.
func zipped(t testing.TB, files ...zipFile) []byte {
	t.Helper()
	var out bytes.Buffer
	archive := zip.NewWriter(&out)
	for _, f := range files {
		header := zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: time.Unix(1744272483, 0)}
		header.SetMode(0o600)
		if f.change != nil {
			f.change(&header)
		}
		w, err := archive.CreateHeader(&header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// tarFile is one file of a tar file; without data it is a folder.
type tarFile struct {
	name string
	data []byte
}

func tarred(t testing.TB, files ...tarFile) []byte {
	t.Helper()
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for _, f := range files {
		header := tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.data)), Mode: 0o600, ModTime: time.Unix(1537985042, 0)}
		if f.data == nil {
			header.Typeflag = tar.TypeDir
		}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// write makes a file, and the folders to it, in a new folder.
func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// read opens a file that is only in memory and reads it to its end.
func read(data []byte) ([]byte, error) {
	f, err := open("backup", bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// check wants of a stream that it is the backend, and that the checker finds it whole.
func check(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, want %d, or others", len(got), len(want))
	}
	s := snapshot.NewScanner(snapshot.Options{Size: int64(len(want))})
	if _, err := s.Write(got); err != nil {
		t.Fatal(err)
	}
	info, err := s.Finish()
	if err != nil || info.Revision != puts+1 || info.Records != puts || info.Trailer != (len(want)%512 == 32) {
		t.Fatalf("revision %d, %d records, trailer %v, %v", info.Revision, info.Records, info.Trailer, err)
	}
}

// changed gives data with one byte changed; at counts from the end when it is negative.
func changed(data []byte, at int) []byte {
	data = slices.Clone(data)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 0xff
	return data
}
