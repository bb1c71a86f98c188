package verify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/scratch"
)

// Question is what an inspection is to compute.
type Question struct {
	// Revision is the revision to hash the keyspace at.
	Revision history.Revision
	// CompactRevision is a revision to compact to before, where the database is not compacted that far; 0 for none.
	CompactRevision history.Revision
}

// Report is what an inspection finds in a database that is sound.
type Report struct {
	Pages   int64 `json:"pages"`
	Records int64 `json:"records"`
	// Revision is that of the database as etcd reads it.
	Revision history.Revision `json:"revision"`
	// Keys and Bytes are of what is live at Revision, keys and values.
	Keys  int64 `json:"keys"`
	Bytes int64 `json:"bytes"`
	// SHA256 is that of a member.Keyspace.
	SHA256 string `json:"sha256"`
	// Hash is etcd's HashKV at HashRevision, with HashCompactRevision.
	Hash                uint32           `json:"hash"`
	HashRevision        history.Revision `json:"hash-revision"`
	HashCompactRevision history.Revision `json:"hash-compact-revision"`
	Resources           []Resource       `json:"resources"`
	// Problem is what is wrong with the database; the rest is then not known. Failure is why it was not looked at.
	Problem string `json:"problem,omitempty"`
	Failure string `json:"failure,omitempty"`
}

// Resource sums up the live keys of one kind of Kubernetes object.
type Resource struct {
	// Name is as kubectl has it, such as "pods" or "certificates.cert-manager.io"; "other" for all that is no object.
	Name  string `json:"name"`
	Keys  int64  `json:"keys"`
	Bytes int64  `json:"bytes"`
}

func (r Report) keyspace() member.Keyspace {
	return member.Keyspace{Keys: r.Keys, Bytes: r.Bytes, SHA256: r.SHA256}
}

const (
	// mostReport bounds the answer of a child, in bytes.
	mostReport = 16 << 20
	// mostResources bounds the kinds that are told apart: a cluster has some hundreds.
	mostResources = 5000
	// otherResource is the name of all keys that are no Kubernetes objects, and of the kinds above mostResources.
	otherResource = "other"
)

// InspectCommand is the hidden command of this program that is the child: PROGRAM inspect-backend FILE REVISION COMPACT.
const InspectCommand = "inspect-backend"

// inspectInChild opens a database in a child process: what is hostile in it can end the child and nothing else.
func inspectInChild(ctx context.Context, program, file string, q Question) (Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &limited{most: mostReport}
	cmd := exec.CommandContext(ctx, program, InspectCommand, file, q.Revision.String(), q.CompactRevision.String())
	// What a crash prints may hold a part of the database, so nobody reads it.
	cmd.Dir, cmd.Env, cmd.Stdout = "/", scratch.Environment("GOTRACEBACK=none"), out
	ended, err := scratch.StartChild(cmd)
	if err != nil {
		return Report{}, fmt.Errorf("start the reader of the database: %w", err)
	}
	how := <-ended
	if ctx.Err() != nil {
		return Report{}, context.Cause(ctx)
	}
	var report Report
	if how == nil {
		how = json.Unmarshal(out.Bytes(), &report)
	}
	if how != nil {
		return report, findf("the database ended its reader: %v", how)
	}
	if report.Failure != "" {
		return report, fmt.Errorf("read the database in a child process: %s", report.Failure)
	}
	if report.Problem != "" {
		return report, findf("database: %s", report.Problem)
	}
	return report, nil
}

// limited is a buffer that refuses more than a bound.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.most {
		return 0, errors.New("too much output")
	}
	return l.Buffer.Write(p)
}

// Inspect is the child: it opens the database at args, FILE REVISION COMPACT, with limits on this process, and writes a Report
// in JSON. It may write to the file. Nothing else runs in the process.
func Inspect(args []string, out io.Writer) error {
	file, q, err := parseInspect(args)
	if err == nil {
		err = limitProcess(file)
	}
	if err != nil {
		return json.NewEncoder(out).Encode(Report{Failure: err.Error()})
	}
	report, err := inspect(file, q)
	if err != nil {
		report = Report{Problem: err.Error()}
	}
	return json.NewEncoder(out).Encode(report)
}

func parseInspect(args []string) (file string, q Question, err error) {
	if len(args) != 3 {
		return "", q, fmt.Errorf("%s is a part of verify, and not for people", InspectCommand)
	}
	revision, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return "", q, err
	}
	compact, err := strconv.ParseInt(args[2], 10, 64)
	return args[0], Question{history.Revision(revision), history.Revision(compact)}, err
}

// limitProcess bounds what a hostile database can make this process take.
func limitProcess(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	size := uint64(info.Size())
	limits := map[int]uint64{
		unix.RLIMIT_CORE: 0, // a core would hold every secret
		// A minute, and one more for each 100 MB: on a slow machine that takes about a second.
		unix.RLIMIT_CPU: 60 + 60*(size/100_000_000),
		// etcd's index takes some hundred bytes for each key, which may be small.
		unix.RLIMIT_DATA: 1<<30 + 4*size,
		// A compaction may make the file grow by some pages.
		unix.RLIMIT_FSIZE: size + size/2 + 64<<20,
	}
	for resource, value := range limits {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("set limit %d: %w", resource, err)
		}
	}
	return nil
}

func inspect(file string, q Question) (Report, error) {
	report, err := checkPages(file)
	if err != nil {
		return report, err
	}
	config := backend.DefaultBackendConfig(zap.NewNop())
	config.Path = file
	config.UnsafeNoFsync = true // it is thrown away
	b := backend.New(config)
	defer b.Close()
	// Only the keyspace is looked at, so leases need no lessor that counts.
	kv := mvcc.NewStore(zap.NewNop(), b, &lease.FakeLessor{}, mvcc.StoreConfig{})
	defer kv.Close()
	report.Revision = history.Revision(kv.Rev())
	if report.Revision < q.Revision {
		return report, fmt.Errorf("it ends at revision %s, before revision %s", report.Revision, q.Revision)
	}
	if err := report.read(kv); err != nil {
		return report, err
	}
	if err := compactTo(kv, q); err != nil {
		return report, err
	}
	hash, _, err := mvcc.NewHashStorage(zap.NewNop(), kv).HashByRev(int64(q.Revision))
	if err != nil {
		return report, fmt.Errorf("hash at revision %s: %w", q.Revision, err)
	}
	report.Hash, report.HashRevision = hash.Hash, history.Revision(hash.Revision)
	report.HashCompactRevision = max(history.Revision(hash.CompactRevision), 0) // -1 is none
	return report, nil
}

// checkPages walks over every page by bbolt's own check.
func checkPages(file string) (report Report, err error) {
	db, err := bbolt.Open(file, 0, &bbolt.Options{ReadOnly: true})
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bbolt.Tx) error {
		var first error
		for err := range tx.Check() {
			first = cmp.Or(first, err)
		}
		if b := tx.Bucket([]byte("key")); b != nil {
			report.Records = int64(b.Stats().KeyN)
		}
		report.Pages = tx.Size() / int64(db.Info().PageSize)
		return first
	})
	return report, err
}

// compactTo compacts as the question asks, if the database is not compacted that far.
func compactTo(kv mvcc.KV, q Question) error {
	if q.CompactRevision == 0 || q.CompactRevision > q.Revision {
		return nil
	}
	done, err := kv.Compact(traceutil.TODO(), int64(q.CompactRevision))
	if errors.Is(err, mvcc.ErrCompacted) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("compact to revision %s: %w", q.CompactRevision, err)
	}
	<-done
	return nil
}

// pageOfKeys is how many keys are read at once.
const pageOfKeys = 1000

// read sums up what is live.
func (r *Report) read(kv mvcc.KV) error {
	view := kv.Read(mvcc.ConcurrentReadTxMode, traceutil.TODO())
	defer view.End()
	kinds := map[string]*Resource{}
	sum := member.NewKeyspaceSum()
	from := []byte{0}
	for {
		page, err := view.Range(context.Background(), from, []byte{}, mvcc.RangeOptions{Limit: pageOfKeys, Rev: int64(r.Revision)})
		if err != nil {
			return fmt.Errorf("read keys: %w", err)
		}
		for _, one := range page.KVs {
			size := int64(len(one.Key) + len(one.Value))
			sum.Add(one.Key, one.Value, history.Revision(one.CreateRevision), history.Revision(one.ModRevision), one.Version, one.Lease)
			name := resourceOf(string(one.Key))
			if kinds[name] == nil && len(kinds) >= mostResources {
				name = otherResource
			}
			if kinds[name] == nil {
				kinds[name] = &Resource{Name: name}
			}
			kinds[name].Keys++
			kinds[name].Bytes += size
			from = append(slices.Clone(one.Key), 0)
		}
		if len(page.KVs) < pageOfKeys {
			break
		}
	}
	found := sum.Keyspace()
	r.Keys, r.Bytes, r.SHA256, r.Resources = found.Keys, found.Bytes, found.SHA256, []Resource{}
	for _, kind := range kinds {
		r.Resources = append(r.Resources, *kind)
	}
	slices.SortFunc(r.Resources, func(a, b Resource) int { return cmp.Or(-cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(a.Name, b.Name)) })
	return nil
}

// mostResourceName bounds the name of a kind, in bytes. What is longer is no kind.
const mostResourceName = 100

// resourceOf tells the kind of the object that a key of an API server holds: /registry/KIND/…, with the group before the kind
// where it has a dot, and for services what they are split into.
func resourceOf(key string) string {
	rest, found := strings.CutPrefix(key, "/registry/")
	first, rest, more := strings.Cut(rest, "/")
	if !found || !more || first == "" {
		return otherResource
	}
	second, _, deeper := strings.Cut(rest, "/")
	name := first
	switch {
	case first == "services" && deeper:
		name = first
		if second == "endpoints" {
			name = second
		}
	case strings.Contains(first, ".") && deeper && second != "":
		name = second + "." + first
	}
	if len(name) > mostResourceName || strings.ContainsFunc(name, func(c rune) bool { return c < '-' || c > 'z' }) {
		return otherResource
	}
	return name
}
