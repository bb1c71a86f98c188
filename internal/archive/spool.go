package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// draft is a sealed segment that waits for the store: its manifest as far as it is known, and the position at its end. Its
// name, timeline and data object are decided before it is sent for the first time, and written down, so that a second try
// after a crash puts the same object.
type draft struct {
	// Number counts the segments that went through the spool, so that they keep their order.
	Number  int64              `json:"number"`
	Segment repository.Segment `json:"segment"`
	End     position           `json:"end"`
	// Begins tells that a snapshot covers what is before it, so that it need not follow the one before.
	Begins bool `json:"begins,omitempty"`
}

const (
	sealedSuffix = ".sealed"
	draftSuffix  = ".json"
)

// spool is a folder of sealed segments, oldest first:
//
//	NUMBER.sealed    the object as it will be stored
//	NUMBER.json      its draft, written after it: a line of JSON, and one with the sha256 of the first
//
// It is no more than a memory: what a crash of the machine damaged is dropped, and read from etcd again. So nothing of it is
// synced, which spares the disk that etcd syncs to. It is safe for concurrent use.
type spool struct {
	folder string
	limit  int64

	mu     sync.Mutex
	drafts []draft
	size   int64
	number int64 // of the last one
	// timeline is that of what is added; "" while a snapshot is awaited that decides it.
	timeline repository.Timeline
	// changed is closed and replaced whenever something changes.
	changed chan struct{}
}

// openSpool reads what is there. From the first draft on that is damaged, or that leaves a hole in its timeline, all go.
func openSpool(folder string, limit int64) (*spool, error) {
	if err := durable.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	s := &spool{folder: folder, limit: limit, changed: make(chan struct{})}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // by name, so in their order
		if !ownName.MatchString(e.Name()) || !strings.HasSuffix(e.Name(), draftSuffix) {
			continue
		}
		d, err := s.read(filepath.Join(folder, e.Name()))
		if err == nil && len(s.drafts) > 0 {
			before := s.drafts[len(s.drafts)-1]
			if !d.Begins && d.Segment.Timeline == before.Segment.Timeline && d.Segment.First != before.Segment.Last+1 {
				err = errors.New("it does not follow the one before")
			}
		}
		if err != nil {
			break
		}
		s.drafts, s.size, s.number = append(s.drafts, d), s.size+d.Segment.Object.Size, d.Number
	}
	return s, s.sweep()
}

// read reads a draft and checks the file beside it.
func (s *spool) read(name string) (d draft, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return d, err
	}
	line, rest, _ := bytes.Cut(text, []byte("\n"))
	if string(rest) != sumLine(line) {
		return d, errors.New("it is damaged")
	}
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return d, err
	}
	if d.Segment.Timeline == "" {
		return d, errors.New("it was read while a snapshot was awaited that never came")
	}
	if s.path(d, draftSuffix) != name {
		return d, errors.New("its name is not its own")
	}
	file, err := os.Open(s.path(d, sealedSuffix))
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	if size, err := io.Copy(sum, file); err != nil {
		return d, err
	} else if got := hex.EncodeToString(sum.Sum(nil)); got != d.Segment.Object.SHA256 || size != d.Segment.Object.Size {
		return d, errors.New("its data is damaged")
	}
	return d, nil
}

// ownName is what the files of a spool are called.
var ownName = regexp.MustCompile(`^[0-9]{12,19}\.(sealed|json|json\.new)$`)

// sumLine is the second line of a draft.
func sumLine(line []byte) string { return fmt.Sprintf("%x\n", sha256.Sum256(line)) }

// sweep removes every file of a spool that belongs to no draft. What somebody else put there stays.
func (s *spool) sweep() error {
	keep := map[string]bool{}
	for _, d := range s.drafts {
		keep[s.path(d, draftSuffix)], keep[s.path(d, sealedSuffix)] = true, true
	}
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join(s.folder, e.Name()); !keep[path] && ownName.MatchString(e.Name()) {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

func (s *spool) path(d draft, suffix string) string {
	return filepath.Join(s.folder, fmt.Sprintf("%012d%s", d.Number, suffix))
}

// add puts a segment at the end. fill writes the sealed object and completes the draft. It is called by one goroutine.
func (s *spool) add(d draft, fill func(io.Writer, *draft) error) (err error) {
	s.mu.Lock()
	s.number++
	d.Number = s.number
	s.mu.Unlock()
	path := s.path(d, sealedSuffix)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("spool segment: %w", errors.Join(err, os.Remove(path)))
		}
	}()
	if err := errors.Join(fill(file, &d), file.Close()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.Segment.Timeline = s.timeline
	if err := s.write(d); err != nil {
		return err
	}
	s.drafts, s.size = append(s.drafts, d), s.size+d.Segment.Object.Size
	s.change()
	return nil
}

// undecided says that a snapshot will decide the timeline of what is added from now on. What an earlier such time has left
// without a decision goes: the snapshot that was awaited never came.
func (s *spool) undecided() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timeline = ""
	n := len(s.drafts)
	for n > 0 && s.drafts[n-1].Segment.Timeline == "" {
		n--
		s.size -= s.drafts[n].Segment.Object.Size
		err = errors.Join(err, s.delete(s.drafts[n]))
	}
	s.drafts = s.drafts[:n]
	s.change()
	return err
}

// decide says what the timeline is, also of what was added without one.
func (s *spool) decide(timeline repository.Timeline) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timeline = timeline
	for i := range s.drafts {
		if d := &s.drafts[i]; d.Segment.Timeline == "" {
			d.Segment.Timeline = timeline
			if err := s.write(*d); err != nil {
				return err
			}
		}
	}
	s.change()
	return nil
}

// write writes a draft down, as a whole or not at all.
func (s *spool) write(d draft) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	text = append(append(text, '\n'), sumLine(text)...)
	path := s.path(d, draftSuffix)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// change tells everybody who waits. The lock is held.
func (s *spool) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// oldest gives the segment that is next, and what is closed when that may be another one.
func (s *spool) oldest() (d draft, found bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.drafts) == 0 {
		return draft{}, false, s.changed
	}
	return s.drafts[0], true, s.changed
}

// end gives the segment that was added last of those whose timeline is known, and the last revision before it and those
// that it follows.
func (s *spool) end() (last draft, before history.Revision, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range slices.Backward(s.drafts) {
		switch {
		case d.Segment.Timeline == "":
			continue
		case !found:
			last, found = d, true
		case d.Segment.Timeline != last.Segment.Timeline || d.Segment.Last != before:
			return last, before, true
		}
		if before = d.Segment.First - 1; d.Begins {
			break
		}
	}
	return last, before, found
}

// name writes down what a segment is called before it is sent.
func (s *spool) name(d draft) error {
	s.mu.Lock()
	if len(s.drafts) > 0 && s.drafts[0].Number == d.Number {
		s.drafts[0] = d
	}
	s.mu.Unlock()
	return s.write(d)
}

func (s *spool) open(d draft) (*os.File, error) { return os.Open(s.path(d, sealedSuffix)) }

// remove drops the oldest segment, which the repository has.
func (s *spool) remove(d draft) error {
	s.mu.Lock()
	s.drafts, s.size = s.drafts[1:], s.size-d.Segment.Object.Size
	s.change()
	s.mu.Unlock()
	return s.delete(d)
}

func (s *spool) delete(d draft) error {
	return errors.Join(os.Remove(s.path(d, draftSuffix)), os.Remove(s.path(d, sealedSuffix)))
}

// sealedTo tells whether something that waits is sealed to a key.
func (s *spool) sealedTo(keyID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.drafts, func(d draft) bool { return slices.Contains(d.Segment.Object.Recipients, keyID) })
}

// clear drops everything.
func (s *spool) clear() error {
	s.mu.Lock()
	s.drafts, s.size = nil, 0
	s.change()
	s.mu.Unlock()
	return s.sweep()
}

// waiting is what is there, in bytes.
func (s *spool) waiting() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size
}

// awaiting tells whether a snapshot has to decide the timeline of what is added.
func (s *spool) awaiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timeline == ""
}

// full tells whether nothing more may come.
func (s *spool) full() bool { return s.waiting() >= s.limit }

// await waits until there is room again, half of the limit, so that the watch does not open and close all the time.
func (s *spool) await(ctx context.Context) error {
	for {
		s.mu.Lock()
		room, changed := s.size <= s.limit/2, s.changed
		s.mu.Unlock()
		if room {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}
