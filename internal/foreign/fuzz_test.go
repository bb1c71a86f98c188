package foreign

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// FuzzOpen gives any bytes as a file, and in one of the containers. Whatever comes: no panic, no more than the limit of memory
// and bytes, an error that stays, and what is opened is a backend at its beginning. What comes out of a container is what
// a plain file of the same bytes gives.
func FuzzOpen(f *testing.F) {
	data := copied(f)[:3*4096]
	f.Add(uint8(0), data)
	for _, compressor := range []func(io.Writer) io.WriteCloser{toGzip, toZlib, toLZW} {
		f.Add(uint8(1), packed(f, data, compressor))
	}
	f.Add(uint8(2), zipped(f, zipFile{name: "etcd-snapshot-a-1744272483", data: data}))
	f.Add(uint8(3), packed(f, tarred(f, tarFile{"./", nil}, tarFile{"./db", data}), toGzip))
	f.Add(uint8(4), tarred(f, tarFile{"./", nil}, tarFile{"./member/", nil}))
	f.Add(uint8(5), []byte(`[{"etcdEvent":{}}]`))
	containers := []func(t testing.TB, data []byte) []byte{
		func(t testing.TB, data []byte) []byte { return packed(t, data, toGzip) },
		func(t testing.TB, data []byte) []byte { return packed(t, data, toZlib) },
		func(t testing.TB, data []byte) []byte { return packed(t, data, toLZW) },
		func(t testing.TB, data []byte) []byte { return zipped(t, zipFile{name: "db", data: data}) },
		func(t testing.TB, data []byte) []byte { return tarred(t, tarFile{"./db", data}) },
	}
	f.Fuzz(func(t *testing.T, container uint8, file []byte) {
		got, err := limitedRead(t, file)
		if len(got) > 0 && !isBackend(got) && len(got) >= 20 {
			t.Fatalf("opened, but no backend: %q", got[:20])
		}
		if err == nil {
			s := snapshot.NewScanner(snapshot.Options{})
			if _, err := s.Write(got); err == nil {
				_, _ = s.Finish() // Its own fuzz test wants more of it.
			}
		}
		if !isBackend(file) {
			return
		}
		in := int(container) % len(containers)
		if out, err := limitedRead(t, containers[in](t, file)); err != nil || !bytes.Equal(out, file) {
			t.Fatalf("in container %d: %d bytes of %d, %v", in, len(out), len(file), err)
		}
	})
}

// limitedRead reads at most 64 MiB: a few bytes can become many.
func limitedRead(t *testing.T, file []byte) ([]byte, error) {
	f, err := open("x", bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(io.LimitReader(f, 64<<20))
	if err != nil {
		if _, again := f.Read(make([]byte, 1)); !errors.Is(again, err) {
			t.Fatalf("after %v comes %v", err, again)
		}
	}
	return got, err
}
