package sftp_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
	"github.com/holdfast-project/holdfast/internal/store/sftptest"
)

// Benchmark puts and gets an object of 256 MB.
func Benchmark(b *testing.B) {
	server := sftptest.Start(b, "")
	s, err := sftp.New(server.Options("store"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	all := content(256_000_000)
	number := 0
	b.Run("Put", func(b *testing.B) {
		b.SetBytes(int64(len(all)))
		for b.Loop() {
			number++
			if _, err := s.Put(b.Context(), fmt.Sprint(number), bytes.NewReader(all), store.PutOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Get", func(b *testing.B) {
		b.SetBytes(int64(len(all)))
		for b.Loop() {
			body, err := s.Open(b.Context(), "1", 0, -1)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, body); err != nil || n != int64(len(all)) {
				b.Fatal(n, err)
			}
			body.Close()
		}
	})
}
