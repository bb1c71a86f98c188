package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/durable"
)

// resources keeps the files that were attached to the unit: the newest revision of each, and a record that names it.
//
//	resources/snapshot.json        {"name": "snapshot", "revision": 2, "sha256": …}
//	resources/snapshot-2           the content
//	resources/snapshot.UUID.part   content on its way
//
// The record is written after the content and is what counts; other revisions are removed only then.
type resources struct {
	dir string
	log *slog.Logger
	mu  sync.Mutex // from the choice of a revision until its record is written; never held while content arrives
}

// resourceNames are the resources that an application has.
func resourceNames() []string { return []string{"snapshot"} }

// Path gives the newest revision of a resource and its sha256.
func (s *resources) Path(name string) (file, sha256 string, err error) {
	record, err := s.record(name)
	if err != nil {
		return "", "", err
	}
	return s.content(record), record.SHA256, nil
}

func (s *resources) content(r api.Resource) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%d", r.Name, r.Revision))
}

func (s *resources) recordFile(name string) string { return filepath.Join(s.dir, name+".json") }

// record reads the record of a resource. The error is fs.ErrNotExist when none was ever attached.
func (s *resources) record(name string) (r api.Resource, err error) {
	data, err := os.ReadFile(s.recordFile(name))
	if err != nil {
		return r, fmt.Errorf("find resource %q: %w", name, err)
	}
	err = json.Unmarshal(data, &r)
	if err == nil && (r.Name != name || r.Revision < 1) {
		err = fmt.Errorf("it is of revision %d of %q", r.Revision, r.Name)
	}
	if err != nil {
		return api.Resource{}, fmt.Errorf("read record of resource %q: it is damaged, attach the file again: %w", name, err)
	}
	return r, nil
}

// all lists the records, by name. One that cannot be read is there with the reason.
func (s *resources) all() map[string]api.Resource {
	found := map[string]api.Resource{}
	for _, name := range resourceNames() {
		switch r, err := s.record(name); {
		case err == nil:
			found[name] = r
		case !errors.Is(err, fs.ErrNotExist):
			found[name] = api.Resource{Name: name, Error: err.Error()}
		}
	}
	return found
}

// attach stores content as the next revision of a resource.
func (s *resources) attach(name string, content io.Reader) (api.Resource, error) {
	part := filepath.Join(s.dir, name+"."+uuid.NewString()+partSuffix)
	made, err := s.receive(part, content)
	if err != nil {
		return api.Resource{}, errors.Join(fmt.Errorf("attach resource %q: %w", name, err), removeIfThere(part))
	}
	made.Name, made.Attached = name, time.Now().UTC().Truncate(time.Millisecond)
	if err := s.publish(part, &made); err != nil {
		return api.Resource{}, errors.Join(fmt.Errorf("attach resource %q: %w", name, err), removeIfThere(part))
	}
	return made, nil
}

// receive writes content to a new file and gives its size and checksum.
func (s *resources) receive(part string, content io.Reader) (made api.Resource, err error) {
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	if made.Size, err = io.CopyBuffer(io.MultiWriter(durable.NewStepwise(file), sum), content, make([]byte, 256<<10)); err != nil {
		return made, err
	}
	made.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return made, file.Sync()
}

// publish gives content that is on the disk the next revision.
func (s *resources) publish(part string, made *api.Resource) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	revisions, err := s.revisions(made.Name)
	if err != nil {
		return err
	}
	before, err := s.record(made.Name)
	if err == nil {
		revisions = append(revisions, before.Revision)
	}
	made.Revision = slices.Max(append(revisions, 0)) + 1 // also when the record is gone: what is newer must show
	if err := durable.Rename(part, s.content(*made)); err != nil {
		return err
	}
	encoded, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.recordFile(made.Name), encoded, 0o600); err != nil {
		return err // the content without a record goes at the next start
	}
	if err := s.removeOthers(*made); err != nil {
		s.log.Warn("remove old revision of resource", "object", made.Name, "err", err) // it goes with the next one
	}
	return nil
}

// revisions lists the revisions of a resource whose content is there.
func (s *resources) revisions(name string) ([]int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, entry := range entries {
		number, isContent := strings.CutPrefix(entry.Name(), name+"-")
		if revision, err := strconv.Atoi(number); isContent && err == nil {
			list = append(list, revision)
		}
	}
	return list, nil
}

// removeOthers drops the other revisions of a resource, now that a newer one is in place.
func (s *resources) removeOthers(keep api.Resource) error {
	revisions, err := s.revisions(keep.Name)
	for _, revision := range revisions {
		if revision != keep.Revision {
			err = errors.Join(err, removeIfThere(s.content(api.Resource{Name: keep.Name, Revision: revision})))
		}
	}
	return err
}

// clear removes what an attach that a crash cut off has left. What belongs to a record that cannot be read is kept.
func (s *resources) clear() error {
	if err := durable.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	for _, entry := range entries {
		// Names with a dot at the front are of records on their way.
		if name := entry.Name(); strings.HasSuffix(name, partSuffix) || strings.HasPrefix(name, ".") {
			err = errors.Join(err, removeIfThere(filepath.Join(s.dir, name)))
		}
	}
	for _, name := range resourceNames() {
		if record, recordErr := s.record(name); recordErr == nil || errors.Is(recordErr, fs.ErrNotExist) {
			record.Name = name
			err = errors.Join(err, s.removeOthers(record))
		}
	}
	return err
}

func removeIfThere(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (a *Agent) putResource(w http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	if !slices.Contains(resourceNames(), name) {
		return nil, refusal{http.StatusNotFound, fmt.Errorf("application %q has no resource %q", a.config.Unit.Application, name)}
	}
	return a.resources.attach(name, a.body(w, r))
}
