package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/restore"
)

// targetFlags say which moment of a cluster is wanted.
type targetFlags struct {
	latest   bool
	at       string
	revision int64
	snapshot string
	timeline string
	// random asks for any moment of the newest timeline. drilled tells that the moment is to be looked at, damaged or not.
	random, drilled bool
	// flags tell what was written, be it empty: that is a mistake of a script, and never the latest.
	flags *pflag.FlagSet
}

// atRandom is what verify --at takes for any moment.
const atRandom = "random"

func (t *targetFlags) register(flags *pflag.FlagSet) {
	t.flags = flags
	flags.BoolVar(&t.latest, "latest", false, "the latest revision that is stored; the default")
	flags.StringVar(&t.at, "at", "", "a time, such as 2026-11-22T10:04:30Z, 10:04 in local time, or \"10 minutes ago\": the last revision that came about not after it")
	flags.Int64Var(&t.revision, "revision", 0, "a revision: the state after all its events")
	flags.StringVar(&t.snapshot, "snapshot", "", "a snapshot, by an id of list")
	flags.StringVar(&t.timeline, "timeline", "", "the life of the cluster that it is on, where several have it, as list shows them")
}

// registerDrill has what a drill of a moment takes.
func (t *targetFlags) registerDrill(flags *pflag.FlagSet) {
	t.flags = flags
	flags.StringVar(&t.at, "at", "", "with --level drill: a time, as restore has it, or \"random\": prove the moment instead of snapshots")
	flags.Int64Var(&t.revision, "revision", 0, "with --level drill: the revision to prove")
	flags.StringVar(&t.timeline, "timeline", "", "with --at or --revision: the life of the cluster that it is on, where several have it")
}

// moment tells whether a moment was asked for.
func (t *targetFlags) moment() bool { return t.at != "" || t.revision != 0 || t.timeline != "" }

// resolved is a moment that can be restored.
type resolved struct {
	repo    *repository.Repository
	parts   chain.Parts
	cluster string
	// asked is the target as a person would say it, near its time; zero when it has none.
	asked string
	near  time.Time
	chain coverage.Chain
	// named tells that a snapshot was asked for by its name, so that nothing else will do.
	named bool
	// reads are the snapshots of the cluster, and timelines what is known of it without those that are broken. highest is the
	// highest revision that is known of, with them.
	reads     map[repository.ID]repository.Read
	timelines []coverage.Timeline
	highest   history.Revision
	broken    broken
}

// restoreChain is the chain in the words of restore.
func (r *resolved) restoreChain(keepHistory bool) chain.Chain {
	return chain.Chain{Base: r.chain.Base, Segments: r.chain.Segments, Revision: r.chain.Revision, KeepHistory: keepHistory}
}

// check looks at the flags and at the word that names a snapshot, "" for none.
func (t *targetFlags) check(word string, now time.Time) (coverage.Target, error) {
	for _, name := range []string{"at", "revision", "snapshot", "timeline"} {
		if flag := t.flags.Lookup(name); flag != nil && flag.Changed && flag.Value.String() == "" {
			return coverage.Target{}, usagef("--%s is empty", name)
		}
	}
	if t.flags.Changed("revision") && t.revision < 1 {
		return coverage.Target{}, usagef("--revision must be above 0, given %d", t.revision)
	}
	if t.flags.Changed("latest") && !t.latest {
		return coverage.Target{}, usagef("--latest=false names no moment: want --at, --revision or --snapshot, or nothing for the latest")
	}
	given := 0
	for _, is := range []bool{t.latest, t.at != "", t.revision != 0, t.snapshot != "", word != ""} {
		if is {
			given++
		}
	}
	if given > 1 {
		return coverage.Target{}, usagef("want one of --latest, --at, --revision and --snapshot")
	}
	target := coverage.Target{Revision: history.Revision(t.revision), Timeline: repository.Timeline(t.timeline)}
	if t.timeline != "" {
		if err := repository.CheckTimeline(t.timeline); err != nil {
			return target, usageError{err}
		}
	}
	if t.at != "" && !t.random {
		at, err := parseMoment(t.at, now)
		if err != nil {
			return target, usagef("--at: %w", err)
		}
		target.Time = at
	}
	return target, nil
}

// resolve finds what leads to a moment. Keys are asked for when they are needed.
func (a *app) resolve(ctx context.Context, f *repoFlags, t *targetFlags, word string) (*resolved, error) {
	target, err := t.check(word, time.Now())
	if err != nil {
		return nil, err
	}
	repo, err := a.openRepository(ctx, f)
	if err != nil {
		return nil, err
	}
	r := &resolved{repo: repo, parts: chain.Parts{Repository: repo}, asked: target.String()}
	if r.cluster, err = f.oneCluster(ctx, repo); err != nil {
		return nil, err
	}
	if clusters, err := repo.Clusters(ctx); err != nil {
		return nil, err
	} else if !slices.Contains(clusters, r.cluster) {
		return nil, noSnapshots(r.cluster, clusters)
	}
	if word == "" {
		word = t.snapshot
	}
	if word != "" && word != "latest" {
		if err := a.look(ctx, r); err != nil {
			return nil, err
		}
		return r, r.pick(ctx, word)
	}
	err = a.reach(ctx, f, r, t, target)
	if _, refused := errors.AsType[*coverage.Unreachable](err); refused {
		return nil, hinted{err, a.Program + " list shows what can be reached"}
	}
	return r, err
}

// randomMoment picks one of the revisions of the newest timeline that can be restored, each as likely as the others.
func randomMoment(timelines []coverage.Timeline) (history.Revision, repository.Timeline, error) {
	for _, t := range slices.Backward(timelines) {
		var all int64
		for _, r := range t.Covered {
			all += r.Len()
		}
		if all == 0 {
			continue
		}
		n := rand.Int64N(all)
		for _, r := range t.Covered {
			if n < r.Len() {
				return r.First + history.Revision(n), t.ID, nil
			}
			n -= r.Len()
		}
	}
	return 0, "", errors.New("nothing is stored that can be restored")
}

// identify reads the keys, once.
func (r *resolved) identify(f *repoFlags) (err error) {
	if r.parts.Identities == nil {
		r.parts.Identities, err = f.identities(r.repo)
	}
	return err
}

// pick takes a snapshot by its id.
func (r *resolved) pick(ctx context.Context, word string) error {
	point, err := r.repo.Find(ctx, r.cluster, word)
	if errors.Is(err, repository.ErrNoPoint) {
		return hinted{err, "holdfast list shows what there is"}
	}
	if err != nil {
		return err
	}
	m, err := r.repo.Manifest(ctx, point)
	if err != nil {
		return err
	}
	r.named, r.asked = true, "snapshot "+m.ID.Short()
	r.chain = coverage.Chain{Timeline: m.Timeline, Revision: m.Content.Revision, Base: m, Newest: m.Content.Revision,
		Time: history.Span{Range: history.Range{First: m.Content.Revision, Last: m.Content.Revision}, To: m.Completed}}
	for _, t := range r.timelines {
		r.chain.Highest = max(r.chain.Highest, t.Last())
		if t.ID == m.Timeline {
			r.chain.Newest = max(r.chain.Newest, t.Last())
		}
	}
	return nil
}

// nearLeases is how many leases after a time are read: one for every 10 quiet seconds says that nothing came since the one before.
const nearLeases = 10

// seenOf is what the archivers of a cluster say of the ends of its timelines, and of those at a time; near may be zero.
func seenOf(ctx context.Context, repo *repository.Repository, cluster string, near time.Time) (seen []coverage.Seen, err error) {
	archived, err := repo.ArchivedTimelines(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for _, line := range archived {
		lease, err := lastLease(ctx, repo, cluster, line)
		if err != nil {
			return nil, err
		}
		seen = append(seen, seenBy(lease)...)
		if near.IsZero() {
			continue
		}
		leases, err := repo.LeasesFrom(ctx, cluster, line, near, nearLeases)
		if err != nil {
			return nil, err
		}
		for _, read := range leases {
			if read.Err == nil {
				seen = append(seen, seenBy(&read.Note)...)
			}
		}
	}
	return seen, nil
}

// believed parts manifests from why others are none.
func believed(reads []repository.Read) (manifests []repository.Manifest, strange []error) {
	for _, read := range reads {
		if read.Err != nil {
			strange = append(strange, read.Err)
			continue
		}
		manifests = append(manifests, read.Manifest)
	}
	return manifests, strange
}

// lastLease is the last word of any archiver about a timeline; nil when there is none that can be believed.
func lastLease(ctx context.Context, repo *repository.Repository, cluster string, line repository.Timeline) (*repository.Lease, error) {
	read, err := repo.LastLease(ctx, cluster, line)
	if err != nil || read == nil || read.Err != nil {
		return nil, err
	}
	return &read.Note, nil
}

// seenBy is what a lease, which may be nil, tells of the end of a timeline.
func seenBy(lease *repository.Lease) []coverage.Seen {
	if lease == nil || lease.AsOf.IsZero() {
		return nil
	}
	return []coverage.Seen{{Timeline: lease.Timeline, Revision: lease.Revision, At: lease.AsOf}}
}

// segmentsOf reads the manifests of segments, of the highest levels that there are first: what a merged one holds is not
// asked for again, unless it cannot be believed.
func segmentsOf(ctx context.Context, repo *repository.Repository, points []repository.SegmentPoint) (segments []repository.Segment, strange []error, err error) {
	held := map[repository.Timeline][]history.Range{}
	for level := repository.SegmentDay; level >= repository.SegmentLive; level-- {
		var wanted []repository.SegmentPoint
		for _, p := range points {
			within := slices.ContainsFunc(held[p.Timeline], func(r history.Range) bool { return r.Contains(p.First) && r.Contains(max(p.First, p.Last)) })
			if p.Level == level && !within {
				wanted = append(wanted, p)
			}
		}
		reads, err := repo.SegmentsOf(ctx, wanted)
		if err != nil {
			return nil, nil, err
		}
		segments = slices.Grow(segments, len(reads))
		for _, read := range reads {
			if read.Err != nil {
				strange = append(strange, read.Err)
				continue
			}
			segments = append(segments, read.Segment)
			if level != repository.SegmentLive {
				held[read.Segment.Timeline] = append(held[read.Segment.Timeline], read.Segment.Range())
			}
		}
	}
	return segments, strange, nil
}

// momentPlan is what --plan shows; docs/contracts/repository.md has the JSON form.
type momentPlan struct {
	Cluster  string `json:"cluster"`
	Timeline string `json:"timeline"`
	Target   string `json:"target"`
	Revision int64  `json:"revision"`
	// TimeFrom and TimeTo are between which times the revision came about: the same when it was seen as it came.
	TimeFrom string `json:"time-from,omitempty"`
	TimeTo   string `json:"time-to,omitempty"`

	Snapshot         string `json:"snapshot"`
	SnapshotRevision int64  `json:"snapshot-revision"`
	Segments         int    `json:"segments"`
	Events           int64  `json:"events"`
	// ReadBytes is what is read from the store, DiskBytes about what is written at most.
	ReadBytes int64 `json:"read-bytes"`
	DiskBytes int64 `json:"disk-bytes"`
	// Seconds is an estimate.
	Seconds int64 `json:"estimated-seconds"`

	// LostRevisions is how many revisions the repository knows after the target on its timeline; Newest is the last one.
	LostRevisions int64    `json:"lost-revisions"`
	Newest        int64    `json:"newest-revision"`
	Notes         []string `json:"notes"`

	DataDir        string `json:"data-dir,omitempty"`
	Name           string `json:"name,omitempty"`
	InitialCluster string `json:"initial-cluster,omitempty"`
	// NextRevision is the first one of the new cluster; Compacted, that all before it is marked compacted.
	NextRevision int64 `json:"next-revision,omitempty"`
	Compacted    bool  `json:"compacted,omitempty"`
}

// What a restore does in a second on a small machine: bytes read from a near store and unsealed, bytes of backend written and
// synced, and events replayed. They make an estimate and no promise.
const (
	readRate   = 100 << 20
	writeRate  = 200 << 20
	replayRate = 150_000
)

// diskOf is what a restore asks for: the parts, the result, and what the first start of etcd takes.
func diskOf(c chain.Chain) int64 {
	data, wal := restore.SpaceNeeded(c.Space())
	return data + wal
}

// plan describes the chain.
func (r *resolved) plan(keepHistory bool) momentPlan {
	c := r.chain
	events := c.Events()
	p := momentPlan{
		Cluster: r.cluster, Timeline: string(c.Timeline), Target: r.asked, Revision: int64(c.Revision),
		Snapshot: c.Base.ID.Long(), SnapshotRevision: int64(c.Base.Content.Revision), Segments: len(c.Segments), Events: events,
		ReadBytes: c.Size(), DiskBytes: diskOf(r.restoreChain(keepHistory)),
		LostRevisions: int64(c.Newest - c.Revision), Newest: int64(c.Newest), Notes: []string{},
	}
	p.Seconds = 1 + p.ReadBytes/readRate + r.restoreChain(keepHistory).Space()/writeRate + events/replayRate
	if !c.Time.To.IsZero() {
		p.TimeTo = coverage.Stamp(c.Time.To)
	}
	if !c.Time.From.IsZero() {
		p.TimeFrom = coverage.Stamp(c.Time.From)
	}
	base := c.Base.Content
	note := func(format string, args ...any) { p.Notes = append(p.Notes, fmt.Sprintf(format, args...)) }
	if base.AuthEnabled {
		note("users must log in; users, roles and passwords are those of revision %s, %s", base.Revision, c.Base.Completed.Format(rfc3339))
	} else if len(c.Segments) > 0 {
		note("users and roles are those of revision %s, %s", base.Revision, c.Base.Completed.Format(rfc3339))
	}
	if c.Base.HashKV.Missing != "" {
		note("the snapshot has no hash of its cluster: %s", c.Base.HashKV.Missing)
	}
	if c.Base.Source.File != nil || c.Base.Source.Adopted {
		note("the snapshot is not from a live member: when it was taken is hearsay")
	}
	for _, t := range r.timelines {
		if t.ID == c.Timeline {
			for _, gap := range t.Gaps() {
				if gap.Last < c.Revision {
					note("revisions %s of this timeline were lost; that changes nothing for revision %s", gap, c.Revision)
				}
			}
		}
	}
	if c.Highest > c.Newest {
		note("another timeline of this cluster has come to revision %s", c.Highest)
	} else if n := len(r.timelines) - 1; n > 0 {
		note("%s of this cluster can be restored, too: list shows them, --timeline names one", plural(n, "other timeline"))
	}
	return p
}

// lines are the plan for people.
func (p momentPlan) lines() [][2]string {
	list := [][2]string{{"reaches", fmt.Sprintf("revision %d, %s, on timeline %s", p.Revision, momentText(p.TimeFrom, p.TimeTo), p.Timeline)}}
	from := fmt.Sprintf("snapshot %s, revision %d", p.Snapshot, p.SnapshotRevision)
	if p.Segments > 0 {
		from += fmt.Sprintf(", and %s with %s", plural(p.Segments, "segment"), plural(int(p.Events), "event"))
	}
	list = append(list, [2]string{"from", from},
		[2]string{"takes", fmt.Sprintf("%s to read, %s of disk, about %s", humanize.Bytes(uint64(p.ReadBytes)), humanize.Bytes(uint64(p.DiskBytes)), time.Duration(p.Seconds)*time.Second)})
	if p.LostRevisions > 0 {
		list = append(list, [2]string{"loses", fmt.Sprintf("%d revisions after it, up to %d, which is the last one that is stored", p.LostRevisions, p.Newest)})
	} else {
		list = append(list, [2]string{"loses", "nothing that is stored; what the cluster wrote later was never stored"})
	}
	if p.DataDir != "" {
		list = append(list, [2]string{"into", fmt.Sprintf("%s, a new data dir for member %q of %s", p.DataDir, p.Name, p.InitialCluster)})
	}
	switch {
	case p.NextRevision == 0:
	case p.Compacted:
		list = append(list, [2]string{"revision", fmt.Sprintf("%d; below it all is marked compacted, so that clients read everything again", p.NextRevision)})
	default:
		list = append(list, [2]string{"revision", fmt.Sprintf("%d; clients that have seen a later one will miss changes", p.NextRevision)})
	}
	for _, n := range p.Notes {
		list = append(list, [2]string{"note", n})
	}
	return list
}
