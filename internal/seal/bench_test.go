package seal_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// backend makes a file of at least 128 MiB as etcd would write it, with what a Kubernetes cluster puts into it. To compare
// with zstd by hand, SEAL_BENCH_FILE names a file that is used in its place.
var backend = sync.OnceValues(func() ([]byte, error) {
	if file := os.Getenv("SEAL_BENCH_FILE"); file != "" {
		return os.ReadFile(file)
	}
	dir, err := os.MkdirTemp("", "seal-bench")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "db")
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		return nil, err
	}
	if err := fill(db); err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
})

// fill writes revisions as etcd does: many transactions, keys in ascending order.
func fill(db *bbolt.DB) error {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	rev := uint64(1)
	for op := range kubeload.New(1, 60_000).Ops() {
		bucket, err := tx.CreateBucketIfNotExists([]byte("key"))
		if err != nil {
			return err
		}
		bucket.FillPercent = 0.9 // etcd's
		key := binary.BigEndian.AppendUint64(nil, rev)
		key = append(key, make([]byte, 9)...)
		key[8] = '_'
		kv := mvccpb.KeyValue{Key: []byte(op.Key), Value: op.Value, CreateRevision: int64(rev), ModRevision: int64(rev), Version: 1}
		value, err := proto.Marshal(&kv)
		if err != nil {
			return err
		}
		if err := bucket.Put(key, value); err != nil {
			return err
		}
		if rev++; rev%10_000 == 0 {
			size := tx.Size()
			if err := tx.Commit(); err != nil {
				return err
			}
			if size >= 128<<20 {
				return nil
			}
			if tx, err = db.Begin(true); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

// BenchmarkWriter and BenchmarkReader tell MB/s of plain bytes, and BenchmarkWriter what is left of them. The test file
// tools_test.go has the judges; for figures of zstd beside these: SEAL_BENCH_FILE=db go test -bench . and zstd -1 -b1 db.
func BenchmarkWriter(b *testing.B) {
	variants(b, func(b *testing.B, plain []byte, opts seal.Options, _ []seal.Identity) {
		var size counter
		timed(b, len(plain), func() {
			size = 0
			sealBench(b, &size, plain, opts)
		})
		b.ReportMetric(float64(size)/float64(len(plain)), "out/in")
	})
}

func BenchmarkReader(b *testing.B) {
	variants(b, func(b *testing.B, plain []byte, opts seal.Options, identities []seal.Identity) {
		var object bytes.Buffer
		sealBench(b, &object, plain, seal.Options{Recipients: opts.Recipients})
		buf := make([]byte, 256<<10)
		timed(b, len(plain), func() {
			r, err := seal.NewReader(bytes.NewReader(object.Bytes()), seal.ReaderOptions{
				Identities: identities, PlainSize: int64(len(plain)), Concurrency: opts.Concurrency})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf); err != nil {
				b.Fatal(err)
			}
			if err := r.Close(); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// timed runs once again and again. Other work on the machine changes MB/cpu-s less than MB/s.
func timed(b *testing.B, size int, once func()) {
	b.SetBytes(int64(size))
	once()
	before := cpu(b)
	for b.Loop() {
		once()
	}
	b.ReportMetric(float64(size)*float64(b.N)/1e6/(cpu(b)-before), "MB/cpu-s")
}

// cpu tells the seconds of processor time that this process has used.
func cpu(b *testing.B) float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

func variants(b *testing.B, run func(*testing.B, []byte, seal.Options, []seal.Identity)) {
	plain, err := backend()
	if err != nil {
		b.Fatal(err)
	}
	secret, recipient, err := seal.GenerateIdentity(seal.X25519)
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		b.Fatal(err)
	}
	identities, err := seal.ReadIdentities(file)
	if err != nil {
		b.Fatal(err)
	}
	for _, concurrency := range []int{1, 2} {
		for _, encrypt := range []bool{false, true} {
			opts := seal.Options{Concurrency: concurrency}
			ids, name := []seal.Identity(nil), "readable"
			if encrypt {
				opts.Recipients, ids, name = []seal.Recipient{recipient}, identities, "encrypted"
			}
			b.Run(fmt.Sprintf("%s/%d", name, concurrency), func(b *testing.B) {
				run(b, plain, opts, ids)
			})
		}
	}
}

// counter takes any number of bytes. Memory for them would cost more time than sealing does.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// sealBench writes in pieces of 32 KiB, as etcd sends them.
func sealBench(b *testing.B, dst io.Writer, plain []byte, opts seal.Options) {
	w, err := seal.NewWriter(dst, opts)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{bytes.NewReader(plain)}, make([]byte, 32<<10)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}
