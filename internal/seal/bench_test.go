package seal_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// backend makes a file of at least 128 MiB as etcd would write it, with what a Kubernetes cluster puts into it.
// SEAL_BENCH_FILE names a file that is used in its place, so that zstd can be run on the same one. It is read from disk
// again and again: in memory it would change how often the garbage collector runs.
func backend(b *testing.B) (file string, size int) {
	file = os.Getenv("SEAL_BENCH_FILE")
	if file == "" {
		file = filepath.Join(b.TempDir(), "db")
		db, err := bbolt.Open(file, 0o600, &bbolt.Options{NoSync: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(fill(db), db.Close()); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	return file, int(info.Size())
}

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

// BenchmarkWriter and BenchmarkReader tell MB/s of plain bytes, BenchmarkWriter also what is left of them. The figures of
// zstd beside them: zstd -1 -b1 db, and zstd -1 -b1 -B4MB db in frames like ours.
func BenchmarkWriter(b *testing.B) {
	variants(b, func(b *testing.B, file string, size int, opts seal.Options, _ []seal.Identity) {
		var out counter
		timed(b, size, func() {
			out = 0
			sealFile(b, &out, file, opts)
		})
		b.ReportMetric(float64(out)/float64(size), "out/in")
	})
}

func BenchmarkReader(b *testing.B) {
	variants(b, func(b *testing.B, file string, size int, opts seal.Options, identities []seal.Identity) {
		object, err := os.Create(filepath.Join(b.TempDir(), "object"))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = object.Close() }()
		sealFile(b, object, file, seal.Options{Recipients: opts.Recipients, Fast: opts.Fast})
		buf := make([]byte, 256<<10)
		timed(b, size, func() {
			if _, err := object.Seek(0, io.SeekStart); err != nil {
				b.Fatal(err)
			}
			r, err := seal.NewReader(object, seal.ReaderOptions{Identities: identities, PlainSize: int64(size), Concurrency: opts.Concurrency})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(new(counter), struct{ io.Reader }{r}, buf); err != nil {
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

func variants(b *testing.B, run func(*testing.B, string, int, seal.Options, []seal.Identity)) {
	db, size := backend(b)
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
			for _, fast := range []bool{false, true} {
				opts.Fast = fast
				b.Run(fmt.Sprintf("%s/%d/fast=%t", name, concurrency, fast), func(b *testing.B) {
					run(b, db, size, opts, ids)
				})
			}
		}
	}
}

// counter takes any number of bytes. Memory for them would cost more time than sealing does.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// sealFile writes in pieces of 32 KiB, as etcd sends them.
func sealFile(b *testing.B, dst io.Writer, file string, opts seal.Options) {
	plain, err := os.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = plain.Close() }()
	w, err := seal.NewWriter(dst, opts)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.CopyBuffer(w, struct{ io.Reader }{plain}, make([]byte, 32<<10)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}
