package parts

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// always is one size for all parts.
func always(size int) func(int) (int, error) { return func(int) (int, error) { return size, nil } }

// TestNext cuts streams of sizes around those of parts, which come in pieces of all sizes.
func TestNext(t *testing.T) {
	for _, part := range []int{1 << 20, firstRead, 1000} {
		for _, size := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, part - 1, part, part + 1, 2*part - 1, 2 * part, 2*part + 1} {
			content := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7}, size/7+1)[:size]
			for name, reader := range map[string]io.Reader{
				"whole":    bytes.NewReader(content),
				"half":     iotest.HalfReader(bytes.NewReader(content)),
				"data+EOF": iotest.DataErrReader(bytes.NewReader(content)),
			} {
				cut := New(reader, always(part))
				var got, buffer []byte
				parts := 0
				for last := false; !last; parts++ {
					var err error
					if buffer, last, err = cut.Next(t.Context(), buffer); err != nil {
						t.Fatal(err)
					}
					if len(buffer) > part || !last && len(buffer) != part {
						t.Errorf("%s of %d: part %d of %d has %d bytes", name, size, parts+1, part, len(buffer))
					}
					got = append(got, buffer...)
				}
				if !bytes.Equal(got, content) || parts != max(1, (size+part-1)/part) {
					t.Errorf("%s of %d: %d parts of %d, %d bytes", name, size, parts, part, len(got))
				}
			}
		}
	}
}

// TestSizes asks for the size of each part by its number, until there may be no more.
func TestSizes(t *testing.T) {
	enough := errors.New("enough")
	content := bytes.NewReader(make([]byte, 100+200+300))
	cut := New(content, func(number int) (int, error) {
		if number > 2 {
			return 0, enough
		}
		return number * 100, nil
	})
	var buffer []byte
	for number := 1; number <= 2; number++ {
		part, last, err := cut.Next(t.Context(), buffer)
		if len(part) != number*100 || last || err != nil {
			t.Fatalf("part %d: %d bytes, %v, %v", number, len(part), last, err)
		}
		buffer = part
	}
	if _, _, err := cut.Next(t.Context(), buffer); !errors.Is(err, enough) {
		t.Errorf("one too many: %v", err)
	}
}

// TestMemory takes little for a small object.
func TestMemory(t *testing.T) {
	part, last, err := New(bytes.NewReader(make([]byte, 10)), always(16<<20)).Next(t.Context(), nil)
	if len(part) != 10 || !last || err != nil || cap(part) > firstRead {
		t.Errorf("%d bytes, %v, %v; in %d", len(part), last, err, cap(part))
	}
}

func TestNextFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := New(bytes.NewReader(nil), always(10)).Next(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("broken")
	content := io.MultiReader(bytes.NewReader(make([]byte, 5)), iotest.ErrReader(broken))
	if part, _, err := New(content, always(10)).Next(t.Context(), nil); !errors.Is(err, broken) || part != nil {
		t.Errorf("broken: %v, %v", part, err)
	}
}
