package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path/filepath"
	"testing"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// TestSpoolAgain: what a spool holds after it was opened again, and where it says that the line ends.
func TestSpoolAgain(t *testing.T) {
	t.Parallel()
	const one, two = repository.Timeline("1111111111111111"), repository.Timeline("2222222222222222")
	type part struct {
		timeline    repository.Timeline
		first, last history.Revision
		begins      bool
	}
	for name, tt := range map[string]struct {
		parts        []part
		kept         int
		last, before history.Revision // of the end; 0 when there is none
	}{
		"nothing":                  {},
		"one line":                 {[]part{{one, 5, 9, true}, {one, 10, 12, false}}, 2, 12, 4},
		"a hole":                   {[]part{{one, 5, 9, false}, {one, 11, 12, false}, {one, 13, 14, false}}, 1, 9, 4},
		"a snapshot between":       {[]part{{one, 5, 9, false}, {one, 50, 60, true}, {one, 61, 62, false}}, 3, 62, 49},
		"another line":             {[]part{{one, 5, 9, false}, {two, 3, 7, true}}, 2, 7, 2},
		"one that awaits its line": {[]part{{one, 5, 9, false}, {"", 30, 31, true}}, 1, 9, 4},
	} {
		t.Run(name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "[*] spool")
			s, err := openSpool(folder, 1<<20)
			must(t, err)
			for _, p := range tt.parts {
				s.timeline = p.timeline
				d := draft{Begins: p.begins, End: position{Revision: p.last}}
				d.Segment.First, d.Segment.Last = p.first, p.last
				must(t, s.add(d, func(out io.Writer, d *draft) error {
					sum := sha256.Sum256([]byte(name))
					d.Segment.Object.Size, d.Segment.Object.SHA256 = int64(len(name)), hex.EncodeToString(sum[:])
					_, err := io.WriteString(out, name)
					return err
				}))
			}
			again, err := openSpool(folder, 1<<20)
			must(t, err)
			last, before, found := again.end()
			if len(again.drafts) != tt.kept || found != (tt.last > 0) || last.Segment.Last != tt.last || before != tt.before {
				t.Errorf("%d are kept, the end is %d after %d; want %d, %d, %d", len(again.drafts), last.Segment.Last, before, tt.kept, tt.last, tt.before)
			}
			if files, err := filepath.Glob(filepath.Join(filepath.Dir(folder), `\[\*\] spool`, "*")); err != nil || len(files) != 2*tt.kept || again.waiting() != int64(tt.kept*len(name)) {
				t.Errorf("%d files, %d bytes wait, %v", len(files), again.waiting(), err)
			}
		})
	}
}
