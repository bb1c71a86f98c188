package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/segment"
	"github.com/holdfast-project/holdfast/internal/store/mem"
)

const (
	// liveFrame is the content of a frame of a live segment, as an archiver has it, in bytes.
	liveFrame = 1 << 20
	// flushTime is how long a live segment is of a day whose bytes are counted.
	flushTime = 10 * time.Second
	hours     = 24
)

// archiveBytes counts what a day of a cluster takes in a repository, compared with an archive file each hour, and with the same
// events as others keep them.
func archiveBytes(ctx context.Context, l *lab, r *report) error {
	d, err := l.fill(ctx, r, "etcd", usual)
	if err != nil {
		return err
	}
	v, err := l.newVault(ctx)
	if err != nil {
		return err
	}
	f := figures{}
	if err := v.backup(ctx, d, f, "--max-rate", "0"); err != nil {
		return err
	}
	byHand := figures{}
	if err := l.snapshotByHand(ctx, d, byHand); err != nil {
		return err
	}
	if err := l.destroy(d); err != nil {
		return err
	}
	snapshot, archive := f["archive_bytes"], byHand["archive_bytes"]
	identities, err := seal.ReadIdentities(v.identity)
	if err != nil {
		return err
	}
	day, err := l.day(ctx, identities)
	if err != nil {
		return err
	}
	manifest, err := manifestBytes(ctx, l.dir, identities[0].Recipient())
	if err != nil {
		return err
	}
	l.say("%d events, %.1f MB of keys and values", day.events, float64(day.raw)/1e6)
	for _, level := range day.levels() {
		total := snapshot + float64(level.bytes) + float64(level.segments)*manifest
		s := side{Side: level.name, Figures: figures{
			"segments": float64(level.segments), "segments_bytes": float64(level.bytes), "manifests_bytes": float64(level.segments) * manifest,
			"day_bytes": total, "part-of-hourly-archives": total / (hours * archive),
		}}
		if level.json > 0 {
			s.Figures["json-gzip_bytes"], s.Figures["part-of-json"] = float64(level.json), float64(level.bytes)/float64(level.json)
		}
		r.add(1, s)
	}
	r.add(1, side{Side: "hourly archives", Figures: figures{"day_bytes": hours * archive, "archive_bytes": archive}})
	r.add(1, side{Side: "snapshot", Figures: figures{"day_bytes": snapshot}})
	r.Notes = append(r.Notes,
		fmt.Sprintf("a day of %d nodes: %d events, %.0f MB of keys and values; live segments of %s, and merged from them with segment.Merge; all sealed for one age key as an archiver does; day: with one snapshot and the manifests", clusterNodes, day.events, float64(day.raw)/1e6, flushTime),
		"hourly archives: 24 times the tar.gz of etcdctl snapshot save; the database has the same size all day",
		"JSON in gzip: the same events in as many files; live and hourly are kept while the other levels are made of them")
	r.gateMost("part-of-hourly-archives", "hourly", 1.0/15)
	r.gateMost("part-of-json", "hourly", 1.0/4)
	return nil
}

// batch is what came in one piece.
type batch struct {
	at   time.Time
	list []history.Event
}

// seconds gives the events of a cluster as an etcd would after a revision, for each of so many seconds.
func seconds(seed uint64, after history.Revision, n int) iter.Seq[batch] {
	return pieces(seed, after, time.Second, n)
}

// pieces gives the events in pieces of a time each.
func pieces(seed uint64, after history.Revision, length time.Duration, n int) iter.Seq[batch] {
	type life struct {
		created history.Revision
		version int64
	}
	return func(yield func(batch) bool) {
		begin := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
		alive := map[string]life{}
		revision := after
		now := batch{at: begin}
		for change := range kubeload.NewCluster(seed, clusterNodes).Changes() {
			for piece := begin.Add(change.At.Truncate(length)); now.at.Before(piece); {
				if n--; !yield(now) || n == 0 {
					return
				}
				now = batch{at: now.at.Add(length)}
			}
			revision++
			for i, op := range change.Ops {
				e := history.Event{Revision: revision, Sub: int64(i), Key: []byte(op.Key), Value: op.Value, Tombstone: op.Value == nil, Lease: int64(op.LeaseSlot)}
				if e.Tombstone {
					delete(alive, op.Key)
				} else {
					l := alive[op.Key]
					if l.version++; l.version == 1 {
						l.created = revision
					}
					alive[op.Key] = l
					e.CreateRevision, e.Version = l.created, l.version
				}
				now.list = append(now.list, e)
			}
		}
	}
}

// storedSegment is a segment in memory.
type storedSegment struct {
	sealed []byte
	plain  repository.Plain
}

// encodeSegment makes the object of a segment.
func encodeSegment(b *segment.Builder, options seal.Options) (s storedSegment, err error) {
	var leases []history.Lease
	for _, id := range b.LeaseIDs() {
		leases = append(leases, history.Lease{ID: id, TTL: kubeload.LeaseTTL})
	}
	var object bytes.Buffer
	w, err := seal.NewWriter(&object, options)
	if err != nil {
		return s, err
	}
	summary, err := b.Encode(w, leases)
	if err = errors.Join(err, w.Close()); err != nil {
		return s, err
	}
	return storedSegment{object.Bytes(), repository.Plain{Size: summary.Size, SHA256: hex.EncodeToString(summary.SHA256[:])}}, nil
}

// level is all segments of one length.
type level struct {
	name string
	// each is how long one is.
	each     time.Duration
	segments int
	// bytes are those of the segments, json those of the same events as JSON in gzip, in as many files; 0 when that was not
	// looked at.
	bytes, json int64
}

// day is what a day of events takes.
type day struct {
	live, minute, hour, day level
	events, raw             int64
}

func (d *day) levels() []level { return []level{d.live, d.minute, d.hour, d.day} }

// day makes a day of live segments, and merges them level by level.
func (l *lab) day(ctx context.Context, identities []seal.Identity) (*day, error) {
	m := &merger{lab: l, identities: identities, options: seal.Options{Concurrency: 1, Recipients: []seal.Recipient{identities[0].Recipient()}}}
	d := &day{live: level{name: "live", each: flushTime}, minute: level{name: "each minute", each: time.Minute}, hour: level{name: "hourly", each: time.Hour}, day: level{name: "daily", each: hours * time.Hour}}
	liveOptions := m.options
	liveOptions.FrameSize, liveOptions.Memory = liveFrame, &seal.Memory{}
	var live, hourly []stored
	var hour []deltaEvent
	number := 0
	for piece := range pieces(l.seed, 1, flushTime, int(hours*time.Hour/flushTime)) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		b := segment.NewBuilder()
		if err := b.Add(piece.list, piece.at, piece.at.Add(flushTime)); err != nil {
			return nil, err
		}
		s, err := encodeSegment(b, liveOptions)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(l.dir, fmt.Sprintf("live-%05d", number))
		if err := os.WriteFile(path, s.sealed, 0o600); err != nil {
			return nil, err
		}
		live = append(live, stored{path, s.plain.Size})
		d.live.add(int64(len(s.sealed)))
		var events []deltaEvent
		for _, e := range piece.list {
			events = append(events, deltaEvent{Delete: e.Tombstone, Key: e.Key, Value: e.Value, ModRevision: int64(e.Revision)})
			d.raw += int64(len(e.Key) + len(e.Value))
		}
		d.events += int64(len(events))
		if err := d.live.pack(events); err != nil {
			return nil, err
		}
		hour = append(hour, events...)
		if number++; number%int(time.Hour/flushTime) > 0 {
			continue
		}
		if err := d.hour.pack(hour); err != nil {
			return nil, err
		}
		hour = nil
		merged, err := m.mergeHour(d, live, len(hourly))
		if err != nil {
			return nil, err
		}
		live, hourly = nil, append(hourly, merged)
		l.say("hour %d of %d", len(hourly), hours)
	}
	merged, err := m.merge(hourly, filepath.Join(l.dir, "day"), &d.day)
	return d, errors.Join(err, os.Remove(merged.path))
}

func (v *level) add(size int64) {
	v.segments++
	v.bytes += size
}

// pack counts what a file of JSON takes.
func (v *level) pack(events []deltaEvent) error {
	var size byteCount
	err := encodeDelta(&size, events)
	v.json += int64(size)
	return err
}

// byteCount is a writer that only counts.
type byteCount int64

func (c *byteCount) Write(b []byte) (int, error) {
	*c += byteCount(len(b))
	return len(b), nil
}

// merger makes one segment of several.
type merger struct {
	*lab
	identities []seal.Identity
	options    seal.Options
}

// stored is a sealed segment in a file, and its plain size in bytes.
type stored struct {
	path  string
	plain int64
}

// mergeHour makes minutes of live segments and an hour of these, which stays.
func (m *merger) mergeHour(d *day, live []stored, number int) (stored, error) {
	var minutes []stored
	for parts := range slices.Chunk(live, int(time.Minute/flushTime)) {
		minute, err := m.merge(parts, filepath.Join(m.dir, fmt.Sprintf("minute-%02d", len(minutes))), &d.minute)
		if err != nil {
			return stored{}, err
		}
		minutes = append(minutes, minute)
	}
	return m.merge(minutes, filepath.Join(m.dir, fmt.Sprintf("hour-%02d", number)), &d.hour)
}

// merge makes a segment of those in some files, which go, and counts it.
func (m *merger) merge(parts []stored, path string, level *level) (s stored, err error) {
	var readers []*segment.Reader
	for _, part := range parts {
		file, err := os.Open(part.path)
		if err != nil {
			return s, err
		}
		defer file.Close()
		sealed, err := seal.NewReader(file, seal.ReaderOptions{Identities: m.identities, Concurrency: 1, PlainSize: part.plain})
		if err != nil {
			return s, err
		}
		defer sealed.Close()
		r, err := segment.NewReader(sealed, part.plain)
		if err != nil {
			return s, err
		}
		readers = append(readers, r)
	}
	out, err := os.Create(path)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w, err := seal.NewWriter(out, m.options)
	if err != nil {
		return s, err
	}
	summary, err := segment.Merge(w, readers)
	if err != nil {
		w.Abort()
		return s, err
	}
	if err := w.Close(); err != nil {
		return s, err
	}
	for _, part := range parts {
		if err := os.Remove(part.path); err != nil {
			return s, err
		}
	}
	info, err := out.Stat()
	if err != nil {
		return s, err
	}
	level.add(info.Size())
	return stored{path, summary.Size}, nil
}

// manifestBytes is what the manifest of a segment takes.
func manifestBytes(ctx context.Context, dir string, recipient seal.Recipient) (float64, error) {
	in := mem.New()
	root, err := repository.NewKey()
	if err != nil {
		return 0, err
	}
	repo, err := repository.Init(ctx, in, root, repository.Age, []seal.Recipient{recipient})
	if err != nil {
		return 0, err
	}
	writer, err := repository.OpenWriter(filepath.Join(dir, "manifest-signer"))
	if err != nil {
		return 0, err
	}
	if err := repo.Enroll(ctx, root, writer.Public(), repository.RoleBackup, "bench"); err != nil {
		return 0, err
	}
	now, sum := time.Now(), hex.EncodeToString(make([]byte, sha256.Size))
	m := repository.Segment{
		Cluster: "bench", Timeline: "0123456789abcdef", First: 1_000_000, Last: 1_000_340, Events: 341, FirstTime: now, LastTime: now, Exact: true,
		Leases: 2, Plain: repository.Plain{Size: 300_000, SHA256: sum}, Term: 2, Started: now, Completed: now,
		Source: repository.Source{
			ClusterID: "cdf818194e3a8c32", MemberID: "8e9e05c52164694d", MemberName: "etcd-0", Endpoint: "https://10.0.0.1:2379", EtcdVersion: "3.7.3",
			CASHA256: sum, Role: "follower",
		},
	}
	if m.Object, err = repo.NewSegmentData(m.Cluster, m.Timeline, m.First, []string{recipient.KeyID()}); err != nil {
		return 0, err
	}
	m.Object.Size, m.Object.SHA256 = 40_000, sum
	if m, err = repo.PublishSegment(ctx, writer, m); err != nil {
		return 0, err
	}
	for object, err := range in.List(ctx, "clusters/bench/archive/", "") {
		return float64(object.Size), err
	}
	return 0, errors.New("the manifest of a segment is nowhere")
}
