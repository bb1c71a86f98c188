package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-project/holdfast/internal/chain"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/verify"
)

// archivedLine is what list knows of one timeline of an archive.
type archivedLine struct {
	cluster string
	line    coverage.Timeline
	holes   []coverage.Hole
	// lease is the last word of an archiver, hashes are the last ones; nil when there are none.
	lease  *repository.Lease
	hashes *repository.Hashes
	drills []repository.Drill
	// newest tells that no timeline of the cluster is newer.
	newest bool
}

// archiveOf reads what the archive of a cluster says, given its snapshots; nothing when there is no archive. Wrong is what cannot
// be believed in it. read is segmentsOf or listedSegments.
func archiveOf(ctx context.Context, repo *repository.Repository, cluster string, reads []repository.Read, read readSegments) (lines []archivedLine, wrong []error, err error) {
	archived, err := repo.ArchivedTimelines(ctx, cluster)
	if err != nil || len(archived) == 0 {
		return nil, nil, err
	}
	states := map[repository.Timeline]*archivedLine{}
	notes := map[repository.Timeline]coverage.Notes{}
	removed, err := repo.RemovedRevisions(ctx, cluster)
	if err != nil {
		return nil, nil, err
	}
	var seen []coverage.Seen
	// Before the segments: what a lease says is archived is there then.
	for _, id := range archived {
		state, noted, odd, err := notesOf(ctx, repo, cluster, id)
		if err != nil {
			return nil, nil, err
		}
		noted.Removed = removed
		states[id], notes[id], wrong = state, noted, append(wrong, odd...)
		seen = append(seen, seenBy(state.lease)...)
	}
	points, strange, err := repo.SegmentPoints(ctx, cluster, "")
	if err != nil {
		return nil, nil, err
	}
	for _, name := range strange {
		wrong = append(wrong, fmt.Errorf("object %q is in the archive and does not belong there", name))
	}
	segments, more, err := read(ctx, repo, points)
	if err != nil {
		return nil, nil, err
	}
	wrong = append(wrong, more...)
	manifests, _ := believed(reads) // the list names those that cannot be believed
	timelines := coverage.Of(manifests, segments, seen)
	for i, t := range timelines {
		state := states[t.ID]
		if state == nil {
			continue // it has snapshots alone
		}
		state.line, state.newest, state.holes = t, i == len(timelines)-1, t.Holes(notes[t.ID])
		lines = append(lines, *state)
	}
	return lines, wrong, nil
}

// readSegments gives the segments that count, and why others do not.
type readSegments func(context.Context, *repository.Repository, []repository.SegmentPoint) (segments []repository.Segment, strange []error, err error)

// listedSegments are segmentsOf whose objects are there. One that is gone does not hide what it was merged from.
func listedSegments(ctx context.Context, repo *repository.Repository, points []repository.SegmentPoint) (segments []repository.Segment, strange []error, err error) {
	var gone []error
	for {
		segments, strange, err = segmentsOf(ctx, repo, points)
		if err != nil || len(segments) == 0 {
			return nil, append(strange, gone...), err
		}
		found, err := repo.CheckSegmentsListed(ctx, points[0].Cluster, segments)
		if err != nil {
			return nil, nil, err
		}
		without := map[repository.SegmentPoint]bool{}
		for i, s := range segments {
			if verify.Damage(found[i]) {
				without[s.Point()], gone = true, append(gone, chain.OfSegment(s, found[i]))
			} else if found[i] != nil {
				return nil, nil, found[i]
			}
		}
		if len(without) == 0 {
			return segments, append(strange, gone...), nil
		}
		points = slices.DeleteFunc(points, func(p repository.SegmentPoint) bool { return without[p] })
	}
}

// notesOf reads what is noted of a timeline.
func notesOf(ctx context.Context, repo *repository.Repository, cluster string, id repository.Timeline) (state *archivedLine, notes coverage.Notes, wrong []error, err error) {
	fail := func(err error) (*archivedLine, coverage.Notes, []error, error) {
		return nil, coverage.Notes{}, nil, err
	}
	state = &archivedLine{cluster: cluster}
	if state.lease, err = lastLease(ctx, repo, cluster, id); err != nil {
		return fail(err)
	}
	first, err := repo.FirstLease(ctx, cluster, id)
	if err != nil {
		return fail(err)
	}
	gapReads, _, err := repo.Gaps(ctx, cluster, id)
	if err != nil {
		return fail(err)
	}
	hashReads, _, err := repo.Hashes(ctx, cluster, id, 1)
	if err != nil {
		return fail(err)
	}
	drillReads, _, err := repo.Drills(ctx, cluster, id)
	if err != nil {
		return fail(err)
	}
	notes.Gaps, wrong = notesIn(gapReads)
	hashes, odd := notesIn(hashReads)
	wrong = append(wrong, odd...)
	state.drills, odd = notesIn(drillReads)
	wrong = append(wrong, odd...)
	if first != nil {
		notes.From = first.Note.Revision
	}
	if state.lease != nil {
		notes.Until = state.lease.Revision
	}
	if len(hashes) > 0 {
		state.hashes, notes.Until = &hashes[0], max(notes.Until, hashes[0].Revision)
	}
	return state, notes, wrong, nil
}

// notesIn parts notes from why others are none.
func notesIn[N any](reads []repository.NoteRead[N]) (notes []N, wrong []error) {
	for _, read := range reads {
		if read.Err != nil {
			wrong = append(wrong, read.Err)
			continue
		}
		notes = append(notes, read.Note)
	}
	return notes, wrong
}

// listedArchive is what list says of the archive of a timeline; docs/contracts/repository.md has the JSON form.
type listedArchive struct {
	Covered []listedWindow `json:"covered"`
	Holes   []listedHole   `json:"holes"`
	// Orphans are revisions in segments that no snapshot leads to.
	Orphans []listedRange `json:"orphans"`
	// Unseen are revisions that can be restored by number only, as nobody saw when each of them came about.
	Unseen   []listedUnseen `json:"unseen"`
	Segments int            `json:"segments"`
	// Newest is the last revision that can be restored; until AsOf nothing came after it.
	Newest int64  `json:"newest-revision"`
	AsOf   string `json:"as-of,omitempty"`
	// AccountsRevision is the revision that users, roles and members are known of.
	AccountsRevision int64           `json:"accounts-revision,omitempty"`
	AccountsTime     string          `json:"accounts-time,omitempty"`
	Archiver         *listedArchiver `json:"archiver,omitempty"`
	// Copied is there instead of an Archiver where the last word was that of who copied the archive from another repository.
	Copied  *listedArchiver `json:"copied,omitempty"`
	Members *listedHashes   `json:"members,omitempty"`
	// ProvenRevision is up to where a drill has found what the live cluster had, and Proven when.
	ProvenRevision int64  `json:"proven-revision,omitempty"`
	Proven         string `json:"proven,omitempty"`
}

type listedRange struct {
	First int64 `json:"first"`
	Last  int64 `json:"last"`
}

func listedRanges(ranges []history.Range) []listedRange {
	list := []listedRange{}
	for _, r := range ranges {
		list = append(list, listedRange{int64(r.First), int64(r.Last)})
	}
	return list
}

// listedWindow is a run of revisions each of which can be restored.
type listedWindow struct {
	First int64 `json:"first"`
	Last  int64 `json:"last"`
	// From is when the first one came about at the latest; To, when the last one did.
	From string `json:"from"`
	To   string `json:"to"`
	// Archived tells that it is reached by the time, too; otherwise it is the history of snapshots.
	Archived bool `json:"archived"`
}

type listedHole struct {
	First  int64          `json:"first"`
	Last   int64          `json:"last"`
	Cause  coverage.Cause `json:"cause"`
	Reason string         `json:"reason,omitempty"`
	Since  string         `json:"since"`
}

type listedArchiver struct {
	Signer   string `json:"signer"`
	Revision int64  `json:"revision"`
	Seen     string `json:"seen"`
	Released bool   `json:"released"`
}

type listedHashes struct {
	Revision int64    `json:"revision"`
	Taken    string   `json:"taken"`
	Equal    bool     `json:"equal"`
	Suspects []string `json:"suspects"`
}

// listed puts what is known into the form of the list.
func (l archivedLine) listed() *listedArchive {
	t := l.line
	a := &listedArchive{Covered: []listedWindow{}, Holes: []listedHole{}, Orphans: listedRanges(t.Orphans), Unseen: []listedUnseen{}, Segments: len(t.Segments), Newest: int64(t.Last())}
	for _, r := range t.Covered {
		a.Covered = append(a.Covered, listedWindow{
			First: int64(r.First), Last: int64(r.Last), From: coverage.Stamp(t.When(r.First).To), To: coverage.Stamp(t.When(r.Last).To), Archived: t.Archived(r),
		})
	}
	for _, h := range l.holes {
		a.Holes = append(a.Holes, listedHole{First: int64(h.First), Last: int64(h.Last), Cause: h.Cause, Reason: h.Reason, Since: coverage.Stamp(h.Since)})
	}
	unseen, _ := t.Unseen(mostUnseen)
	for _, u := range unseen {
		a.Unseen = append(a.Unseen, listedUnseen{First: int64(u.First), Last: int64(u.Last), From: stampOr(u.From), To: stampOr(u.To), Part: u.Part})
	}
	if !t.AsOf.IsZero() {
		a.AsOf = coverage.Stamp(t.AsOf)
	}
	if n := len(t.Snapshots); n > 0 {
		m := t.Snapshots[n-1]
		a.AccountsRevision, a.AccountsTime = int64(m.Content.Revision), coverage.Stamp(m.Completed)
	}
	if sign := l.lastSign(); !sign.seen.IsZero() {
		last := &listedArchiver{Signer: sign.signer.Short(), Revision: int64(sign.revision), Seen: coverage.Stamp(sign.seen), Released: sign.released}
		if sign.copied {
			a.Copied = last
		} else {
			a.Archiver = last
		}
	}
	if h := l.hashes; h != nil {
		a.Members = &listedHashes{Revision: int64(h.Revision), Taken: coverage.Stamp(h.Taken), Equal: h.Equal, Suspects: append([]string{}, h.Suspects...)}
	}
	if proof := l.proof(); proof != nil {
		a.ProvenRevision, a.Proven = int64(proof.Last), coverage.Stamp(proof.Started)
	}
	return a
}

// sign is that somebody had an archive up to a revision.
type sign struct {
	signer   repository.Fingerprint
	revision history.Revision
	seen     time.Time
	// released tells that it was the end of an archiver, copied that it was no archiver but who copied the archive.
	released, copied bool
}

// lastSign is the last sign of life of an archiver, or of who copied: a lease, or a segment, also one that was merged by now. Who
// signs a merged one need not be who archived; that somebody did is sure, when its last revision came at the earliest.
func (l archivedLine) lastSign() (last sign) {
	if l.lease != nil {
		last = sign{l.lease.Signer, l.lease.Revision, l.lease.ID.Time, l.lease.Release, l.lease.Copied != nil}
	}
	for _, s := range l.line.Segments {
		if s.Last <= last.revision || s.Source.Adopted {
			continue // who adopted it was no archiver
		}
		copied := s.Source.Copied != nil
		if copied || s.Level == repository.SegmentLive {
			last = sign{s.Signer, s.Last, s.Completed, false, copied}
			continue
		}
		last.revision, last.released = s.Last, false
		if s.LastTime.After(last.seen) {
			last.seen = s.LastTime
		}
		if last.signer == "" {
			last.signer = s.Signer
		}
	}
	return last
}

// proof is the drill that has proven the most; nil when none has proven anything.
func (l archivedLine) proof() (best *repository.Drill) {
	for i, d := range l.drills {
		if d.Proves() && (best == nil || cmp.Or(cmp.Compare(d.Last, best.Last), d.Started.Compare(best.Started)) > 0) {
			best = &l.drills[i]
		}
	}
	return best
}

// failures are the drills that failed and that no later one has made good: one that passed with the same revision among
// those that it restored.
func (l archivedLine) failures() (failed []repository.Drill) {
	for _, d := range l.drills {
		mended := slices.ContainsFunc(l.drills, func(later repository.Drill) bool {
			return later.Passed && later.Started.After(d.Started) && later.First <= d.Revision && d.Revision <= later.Last
		})
		if !d.Passed && !mended {
			failed = append(failed, d)
		}
	}
	return failed
}

// missing are the revisions that are not there, and nothing says why.
func (l archivedLine) missing() (found []error) {
	for _, h := range l.holes {
		if h.Cause == coverage.Missing {
			found = append(found, fmt.Errorf("cluster %s, timeline %s: revisions %s are missing, and nothing says why; what can be restored are revisions %s",
				l.cluster, l.line.ID, h.Range, windows(l.line.Covered)))
		}
	}
	return found
}

// findings are what somebody must look at.
func (l archivedLine) findings() (found []error) {
	say := func(format string, args ...any) {
		found = append(found, fmt.Errorf("cluster %s, timeline %s: "+format, append([]any{l.cluster, l.line.ID}, args...)...))
	}
	found = l.missing()
	for _, d := range l.failures() {
		say("a drill of revision %s failed, %s: %s", d.Revision, d.Started.Format(rfc3339), d.Problem)
	}
	if l.newest && l.hashes != nil && !l.hashes.Equal {
		say("the members differed at revision %s, %s; suspect are %s", l.hashes.Revision, l.hashes.Taken.Format(rfc3339), l.suspects())
	}
	return found
}

// windows are ranges in words.
func windows(ranges []history.Range) string {
	if len(ranges) == 0 {
		return "none"
	}
	var texts []string
	for _, r := range ranges {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ", ")
}

// suspects are the members that differ, by name and id.
func (l archivedLine) suspects() string {
	var names []string
	for _, m := range l.hashes.Members {
		if slices.Contains(l.hashes.Suspects, m.MemberID) {
			names = append(names, fmt.Sprintf("%s (%s)", cmp.Or(m.Name, "unnamed"), m.MemberID))
		}
	}
	return strings.Join(names, ", ")
}

// archiveOverdue says what of the archive of a cluster is beyond the limits.
func (l listFlags) archiveOverdue(cluster string, lines []archivedLine, now time.Time) (late []error) {
	if l.maxLag == 0 && l.gaplessWithin == 0 {
		return nil
	}
	at := slices.IndexFunc(lines, func(line archivedLine) bool { return line.newest })
	if at < 0 {
		return []error{fmt.Errorf("cluster %s: there is no archive of its newest timeline", cluster)}
	}
	newest := lines[at]
	switch asOf := newest.line.AsOf; {
	case l.maxLag == 0:
	case asOf.IsZero():
		late = append(late, fmt.Errorf("cluster %s: nobody knows as of when the archive is", cluster))
	case now.Sub(asOf) > l.maxLag:
		late = append(late, fmt.Errorf("cluster %s: the archive is as of %s, more than %s ago", cluster, asOf.Format(rfc3339), l.maxLag))
	}
	for _, h := range newest.holes {
		if l.gaplessWithin > 0 && (h.Cause == coverage.Lost || h.Cause == coverage.Missing) && now.Sub(h.Since) <= l.gaplessWithin {
			late = append(late, fmt.Errorf("cluster %s: revisions %s cannot be restored, since %s: %s", cluster, h.Range, h.Since.Format(rfc3339), cmp.Or(h.Reason, string(h.Cause))))
		}
	}
	return late
}

// writeArchives shows what can be restored, as a table, and below it how the archive of each timeline stands.
func writeArchives(w io.Writer, lines []archivedLine, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nCluster\tTimeline\tRevisions\tFrom\tTo\tRestorable")
	for _, l := range lines {
		for _, row := range l.rows() {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", l.cluster, l.line.ID, row.Range, row.from, row.to, row.what)
		}
	}
	err := table.Flush()
	for _, l := range lines {
		fmt.Fprintf(w, "\narchive of cluster %s, timeline %s\n", l.cluster, l.line.ID)
		for _, line := range l.stands(now) {
			fmt.Fprintf(w, "  %-10s %s\n", line[0], line[1])
		}
	}
	return err
}

// row is a line of the table.
type row struct {
	history.Range
	from, to, what string
}

// rows are what can be restored and what cannot, by revision.
func (l archivedLine) rows() (rows []row) {
	t := l.line
	add := func(r history.Range, what string) {
		// When a revision that is not there came about nobody can say; a segment without snapshot still tells.
		rows = append(rows, row{r, "", "", what})
	}
	for _, r := range t.Covered {
		what := "every revision"
		switch {
		case r.First == r.Last:
			what = "one revision"
		case !t.Archived(r):
			what = "every revision, by its number"
		}
		rows = append(rows, row{r, coverage.Stamp(t.When(r.First).To), coverage.Stamp(t.When(r.Last).To), what})
	}
	for _, h := range l.holes {
		what := "no, " + string(h.Cause)
		if h.Cause == coverage.Lost || h.Cause == coverage.Missing {
			what = strings.ToUpper(string(h.Cause))
		}
		if h.Reason != "" {
			what += ": " + h.Reason
		}
		add(h.Range, what)
	}
	for _, r := range t.Orphans {
		add(r, "no, no snapshot leads to it")
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.First, b.First) })
	return rows
}

// stands are lines about how an archive stands.
func (l archivedLine) stands(now time.Time) (lines [][2]string) {
	say := func(what, format string, args ...any) {
		lines = append(lines, [2]string{what, fmt.Sprintf(format, args...)})
	}
	t := l.line
	switch {
	case t.Last() == 0:
	case t.AsOf.IsZero():
		say("newest", "revision %s, nobody knows of when", t.Last())
	default:
		say("newest", "revision %s; nothing came after it until %s, %s", t.Last(), coverage.Stamp(t.AsOf), ago(now.Sub(t.AsOf)))
	}
	switch sign := l.lastSign(); {
	case sign.copied:
		say("copied", "up to revision %s by signer %s, %s", sign.revision, sign.signer.Short(), ago(now.Sub(sign.seen)))
	case sign.released:
		say("archiver", "none: signer %s ended at revision %s, %s", sign.signer.Short(), sign.revision, ago(now.Sub(sign.seen)))
	case !sign.seen.IsZero():
		say("archiver", "signer %s, last heard of at revision %s, %s", sign.signer.Short(), sign.revision, ago(now.Sub(sign.seen)))
	}
	if h := l.hashes; h != nil && h.Equal {
		say("members", "agree at revision %s, %s", h.Revision, ago(now.Sub(h.Taken)))
	} else if h != nil {
		say("members", "SUSPECT: they differ at revision %s, %s: %s", h.Revision, ago(now.Sub(h.Taken)), l.suspects())
	}
	for _, line := range l.unseen() {
		say("unseen", "%s", line)
	}
	if n := len(t.Snapshots); n > 0 {
		m := t.Snapshots[n-1]
		say("accounts", "users, roles and members are known as of revision %s, %s", m.Content.Revision, ago(now.Sub(m.Completed)))
	}
	if proof := l.proof(); proof != nil {
		say("proven", "up to revision %s, %s", proof.Last, ago(now.Sub(proof.Started)))
	}
	for _, d := range l.failures() {
		say("proven", "NOT: a drill of revision %s failed, %s", d.Revision, ago(now.Sub(d.Started)))
	}
	return lines
}
