package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/repository"
)

const testLine = repository.Timeline("00000000000000aa")

// linesOf are two timelines of a cluster, the newest with a lost gap, an hour and a minute ago.
func linesOf(now time.Time) []archivedLine {
	at := func(ago time.Duration) time.Time { return now.Add(-ago).UTC().Truncate(time.Millisecond) }
	snapshot := func(id repository.Timeline, compact, revision history.Revision, ago time.Duration) repository.Manifest {
		m := repository.Manifest{Timeline: id, Started: at(ago), Completed: at(ago)}
		m.Content.CompactRevision, m.Content.Revision = compact, revision
		return m
	}
	live := func(id repository.Timeline, first, last history.Revision, ago time.Duration) repository.Segment {
		return repository.Segment{Timeline: id, First: first, Last: last, FirstTime: at(ago), LastTime: at(ago), Completed: at(ago), Exact: true, Signer: repository.Fingerprint(strings.Repeat("ab", 32))}
	}
	older := repository.Timeline("00000000000000bb")
	list := coverage.Of(
		[]repository.Manifest{snapshot(older, 0, 5, 50*time.Hour), snapshot(testLine, 0, 10, 3*time.Hour), snapshot(testLine, 31, 31, time.Hour)},
		[]repository.Segment{live(older, 6, 9, 49*time.Hour), live(testLine, 11, 20, 2*time.Hour), live(testLine, 32, 40, time.Minute), live(testLine, 50, 51, time.Second)}, nil)
	notes := coverage.Notes{Gaps: []repository.Gap{{Timeline: testLine, First: 21, Last: 30, Noticed: at(time.Hour), Reason: "compacted"}}}
	var lines []archivedLine
	for i, t := range list {
		lines = append(lines, archivedLine{cluster: "prod", line: t, holes: t.Holes(notes), newest: i == len(list)-1})
	}
	return lines
}

// TestArchiveLimits: what of an archive is beyond a limit is named, and only that.
func TestArchiveLimits(t *testing.T) {
	now := time.Now()
	for name, tt := range map[string]struct {
		flags listFlags
		lines []archivedLine
		says  []string
	}{
		"none":             {listFlags{}, linesOf(now), nil},
		"in time":          {listFlags{maxLag: 2 * time.Minute}, linesOf(now), nil},
		"late":             {listFlags{maxLag: 30 * time.Second}, linesOf(now), []string{"more than 30s ago"}},
		"gap long ago":     {listFlags{gaplessWithin: time.Second}, linesOf(now), nil},
		"gap":              {listFlags{gaplessWithin: 2 * time.Hour}, linesOf(now), []string{"revisions 21-30 cannot be restored", "revisions 41-49 cannot be restored"}},
		"no archive":       {listFlags{maxLag: time.Minute}, nil, []string{"there is no archive"}},
		"of an older life": {listFlags{gaplessWithin: time.Hour}, linesOf(now)[:1], []string{"there is no archive"}},
	} {
		late := tt.flags.archiveOverdue("prod", tt.lines, now)
		if len(late) != len(tt.says) {
			t.Errorf("%s: %v", name, late)
			continue
		}
		for i, says := range tt.says {
			if !strings.Contains(late[i].Error(), says) {
				t.Errorf("%s: %v, want %q", name, late[i], says)
			}
		}
	}
}

// TestArchiveText is what a person reads about an archive, and what is a finding in it.
func TestArchiveText(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	lines := linesOf(now)
	newest := &lines[1]
	newest.hashes = &repository.Hashes{Revision: 38, Taken: now.Add(-5 * time.Minute), Suspects: []string{"a2"},
		Members: []repository.MemberHash{{MemberID: "a1", Name: "etcd-0"}, {MemberID: "a2", Name: "etcd-1"}, {MemberID: "a3"}}}
	newest.lease = &repository.Lease{Revision: 40, ID: repository.ID{Time: now.Add(-4 * time.Second)}, Signer: repository.Fingerprint(strings.Repeat("cd", 32))}
	drill := func(revision, first, last history.Revision, ago time.Duration, passed bool) repository.Drill {
		d := repository.Drill{Revision: revision, First: first, Last: last, Started: now.Add(-ago), Passed: passed, Compared: passed}
		if !passed {
			d.Problem = "it is damaged"
		}
		return d
	}
	newest.drills = []repository.Drill{
		drill(12, 1, 15, 3*time.Hour, false), drill(13, 1, 18, 2*time.Hour, true), drill(33, 31, 35, time.Hour, false), drill(34, 34, 36, time.Minute, true),
	}
	var out bytes.Buffer
	if err := writeArchives(&out, lines, now); err != nil {
		t.Fatal(err)
	}
	want := `
Cluster  Timeline          Revisions  From                      To                        Restorable
prod     00000000000000bb  1-9        2026-11-20T10:00:00.000Z  2026-11-20T11:00:00.000Z  every revision
prod     00000000000000aa  1-20       2026-11-22T09:00:00.000Z  2026-11-22T10:00:00.000Z  every revision
prod     00000000000000aa  21-30                                                          LOST: compacted
prod     00000000000000aa  31-40      2026-11-22T11:00:00.000Z  2026-11-22T11:59:00.000Z  every revision
prod     00000000000000aa  41-49                                                          MISSING
prod     00000000000000aa  50-51                                                          no, no snapshot leads to it

archive of cluster prod, timeline 00000000000000bb
  newest     revision 9; nothing came after it until 2026-11-20T11:00:00.000Z, 2d ago
  archiver   signer abababababababab, last heard of at revision 9, 2d ago
  accounts   users, roles and members are known as of revision 5, 2d ago

archive of cluster prod, timeline 00000000000000aa
  newest     revision 40; nothing came after it until 2026-11-22T11:59:00.000Z, 1m ago
  archiver   signer abababababababab, last heard of at revision 51, just now
  members    SUSPECT: they differ at revision 38, 5m ago: etcd-1 (a2)
  unseen     revision 31 by --revision only: nobody saw when between 2026-11-22T10:00:00.000Z and 2026-11-22T11:00:00.000Z
  accounts   users, roles and members are known as of revision 31, 1h ago
  proven     up to revision 36, 1m ago
  proven     NOT: a drill of revision 33 failed, 1h ago
`
	if out.String() != want {
		t.Errorf("it says\n%s\nwant\n%s", out.String(), want)
	}
	var found []string
	for _, line := range lines {
		for _, err := range line.findings() {
			found = append(found, err.Error())
		}
	}
	all := strings.Join(found, "\n")
	for _, says := range []string{"revisions 41-49 are missing", "restored are revisions 1-20, 31-40", "a drill of revision 33 failed", "differed at revision 38", "etcd-1 (a2)"} {
		if !strings.Contains(all, says) {
			t.Errorf("findings do not say %q:\n%s", says, all)
		}
	}
	if len(found) != 3 || lines[0].findings() != nil {
		t.Errorf("findings are\n%s", all)
	}
	listed, err := json.Marshal(newest.listed())
	if err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{
		`"covered":[{"first":1,"last":20,"from":"2026-11-22T09:00:00.000Z","to":"2026-11-22T10:00:00.000Z","archived":true},`, `"cause":"lost","reason":"compacted","since":"2026-11-22T11:00:00.000Z"`,
		`"orphans":[{"first":50,"last":51}],"unseen":[{"first":1,"last":10,"to":"2026-11-22T09:00:00.000Z"},{"first":31,`, `"segments":3,"newest-revision":40`, `"accounts-revision":31`, `"equal":false,"suspects":["a2"]`, `"proven-revision":36`,
	} {
		if !strings.Contains(string(listed), says) {
			t.Errorf("JSON lacks %s: %s", says, listed)
		}
	}
}

// TestCopiedArchive: of a copy nobody is said to archive, until somebody does.
func TestCopiedArchive(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	signer := repository.Fingerprint(strings.Repeat("cd", 32))
	segment := func(level int, last history.Revision, copied *repository.Copied) repository.Segment {
		return repository.Segment{Level: level, First: 2, Last: last, Completed: now.Add(-time.Hour), Signer: signer, Source: repository.Source{Copied: copied}}
	}
	lease := func(revision history.Revision, copied *repository.Copied) *repository.Lease {
		return &repository.Lease{Revision: revision, ID: repository.ID{Time: now.Add(-2 * time.Minute)}, Signer: signer, Release: copied != nil, Copied: copied}
	}
	of := &repository.Copied{}
	for name, c := range map[string]struct {
		lease    *repository.Lease
		segments []repository.Segment
		want     string
	}{
		"a merged copy":          {nil, []repository.Segment{segment(repository.SegmentDay, 9, of)}, "copied up to revision 9 by signer cdcdcdcdcdcdcdcd, 1h ago"},
		"a live copy":            {nil, []repository.Segment{segment(repository.SegmentLive, 9, of)}, "copied up to revision 9 by signer cdcdcdcdcdcdcdcd, 1h ago"},
		"the word of who copied": {lease(9, of), []repository.Segment{segment(repository.SegmentLive, 9, of)}, "copied up to revision 9 by signer cdcdcdcdcdcdcdcd, 2m ago"},
		"an archiver goes on":    {lease(9, of), []repository.Segment{segment(repository.SegmentLive, 9, of), segment(repository.SegmentLive, 11, nil)}, "archiver signer cdcdcdcdcdcdcdcd, last heard of at revision 11, 1h ago"},
		"an archiver waits":      {lease(9, nil), []repository.Segment{segment(repository.SegmentLive, 9, of)}, "archiver signer cdcdcdcdcdcdcdcd, last heard of at revision 9, 2m ago"},
		"merged here":            {nil, []repository.Segment{segment(repository.SegmentDay, 9, nil)}, ""},
	} {
		line := archivedLine{line: coverage.Timeline{Segments: c.segments}, lease: c.lease}
		var said []string
		for _, words := range line.stands(now) {
			said = append(said, words[0]+" "+words[1])
		}
		if got := strings.Join(said, "; "); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
		listed := line.listed()
		if copied := strings.HasPrefix(c.want, "copied"); (listed.Copied != nil) != copied || (listed.Archiver != nil) != (!copied && c.want != "") {
			t.Errorf("%s: %+v", name, listed)
		}
	}
}

// TestArchiveLog: without a terminal there is a line each minute and none for each segment; as JSON there is one for each.
func TestArchiveLog(t *testing.T) {
	now := time.Now()
	events := []archive.Event{
		{Watching: &archive.Watching{Endpoint: "https://a", Role: "follower", From: 5, Behind: 2}},
		{Stored: &archive.Stored{Segment: repository.Segment{First: 5, Last: 9}, Lag: time.Second}},
		{Progress: &archive.Progress{Revision: 9, Read: 9, AsOf: now}},
		{Progress: &archive.Progress{Revision: 9, Read: 20, Waiting: 1000}},
		{Ended: &archive.Progress{Revision: 20, Read: 20, AsOf: now}},
		{Ended: &archive.Progress{}},
	}
	for _, tt := range []struct {
		json, quiet bool
		out, talk   int
	}{{talk: 5}, {json: true, out: 6}, {quiet: true, talk: 3}} {
		var out, talk bytes.Buffer
		log := archiveLog{app: &app{Environment: Environment{Stdout: &out, Stderr: &talk}}, json: tt.json, quiet: tt.quiet, troubled: map[archive.Part]map[string]time.Time{}}
		for _, e := range events {
			log.say(e)
		}
		if strings.Count(out.String(), "\n") != tt.out || strings.Count(talk.String(), "\n") != tt.talk {
			t.Errorf("json %v, quiet %v: it says\n%s%s", tt.json, tt.quiet, out.String(), talk.String())
		}
		if tt.json || tt.quiet {
			continue
		}
		for _, says := range []string{
			"goes on: everything up to revision 9 is stored; 0s ago nothing came after it\n", "goes on: everything up to revision 9 is stored, up to 20 is read; 1.0 kB wait for the store\n",
			"ended: everything up to revision 20 is stored; ", "ended: nothing is stored yet\n",
		} {
			if !strings.Contains(talk.String(), says) {
				t.Errorf("it does not say %q:\n%s", says, talk.String())
			}
		}
	}
}

// TestRandomMoment gives only what can be restored, and all of it in the end.
func TestRandomMoment(t *testing.T) {
	lines := linesOf(time.Now())
	timelines := []coverage.Timeline{lines[0].line, lines[1].line}
	seen := map[history.Revision]bool{}
	for range 5000 {
		revision, timeline, err := randomMoment(timelines)
		if err != nil || timeline != testLine {
			t.Fatalf("revision %s of timeline %q, %v", revision, timeline, err)
		}
		seen[revision] = true
	}
	for r := history.Revision(1); r <= 51; r++ {
		if want := r <= 20 || 31 <= r && r <= 40; seen[r] != want {
			t.Errorf("revision %s was given: %v", r, seen[r])
		}
	}
	if _, _, err := randomMoment(nil); err == nil {
		t.Error("a moment of nothing")
	}
}

// TestMomentUsage: what cannot be meant is refused before anything is opened.
func TestMomentUsage(t *testing.T) {
	for line, says := range map[string]string{
		"verify --at 10:04": "need --level drill", "verify --level checksum --revision 3": "need --level drill", "verify --level drill --timeline 00000000000000aa": "--timeline needs",
		"verify --level drill --revision 3 latest": "exclude", "verify --level drill --revision 3 --sample 10%": "--sample", "verify --level drill --at whenever": "want one like",
		"archive --flush 1ms": "10ms at least", "archive --snapshot-every 1s": "--snapshot-every 1m", "archive --hash-every 1s": "10s at least",
		"verify --level drill --at 10:04 --revision 3": "want one of", "restore --latest --data-dir x --initial-cluster a=http://a,b=http://b": "same token",
	} {
		if code, out, talk := invoke(t, "holdfast", t.TempDir(), strings.Fields(line+" --repo file:///nonexistent")...); code != 2 || out != "" || !strings.Contains(talk, says) {
			t.Errorf("%s: exit code %d, %s%s", line, code, out, fmt.Sprintf("%q", talk))
		}
	}
}

// TestArchiveProgressText: no more is said than is known.
func TestArchiveProgressText(t *testing.T) {
	now := time.Now()
	for want, p := range map[string]archive.Progress{
		"nothing is stored yet":                                                             {},
		"everything up to revision 7 is stored":                                             {Revision: 7, Read: 7},
		"everything up to revision 7 is stored; 4s ago nothing came after it":               {Revision: 7, Read: 7, AsOf: now.Add(-4 * time.Second)},
		"everything up to revision 7 is stored, up to 9 is read; 1.0 kB wait for the store": {Revision: 7, Read: 9, Waiting: 1000},
		"everything up to revision 7 is stored; what came after it waits for a snapshot":    {Revision: 7, Read: 7, Awaits: true, Waiting: 1000, AsOf: now},
	} {
		if got := progressText(&p, now); got != want {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
}

// TestArchiveLogRepeats: a snapshot that is tried again and again is not told each time.
func TestArchiveLogRepeats(t *testing.T) {
	var out bytes.Buffer
	l := archiveLog{app: &app{Environment: Environment{Stderr: &out}}, troubled: map[archive.Part]map[string]time.Time{}}
	watching := func(from history.Revision, why error) {
		l.say(archive.Event{Watching: &archive.Watching{Endpoint: "http://e", Role: "alone", From: from, Why: why}})
	}
	full := errors.New("far behind")
	watching(7, full)
	watching(7, full)
	watching(8, full)
	watching(8, nil)
	watching(8, nil)
	if got := out.String(); strings.Count(got, "while a snapshot is taken of what is before: far behind") != 2 || strings.Count(got, "0 behind") != 2 {
		t.Errorf("it says\n%s", got)
	}
}

// TestUnseenText: what can be reached by number only is shown, the last of it, and in JSON more.
func TestUnseenText(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	at := func(minute int) time.Time { return now.Add(time.Duration(minute-60) * time.Minute) }
	m := repository.Manifest{Timeline: testLine, Started: at(0), Completed: at(0)}
	m.Content.Revision = 10
	var segments []repository.Segment
	for i := range 5 { // three revisions that nobody saw, and one that somebody did
		first := history.Revision(11 + 4*i)
		segments = append(segments, repository.Segment{Timeline: testLine, First: first, Last: first + 2, FirstTime: at(10 * i), LastTime: at(10*i + 1)},
			repository.Segment{Timeline: testLine, First: first + 3, Last: first + 3, FirstTime: at(10*i + 5), LastTime: at(10*i + 5), Exact: true})
	}
	segments[4].Level = repository.SegmentDay
	segments[8].First, segments[7].Last = 29, 28
	l := archivedLine{cluster: "prod", line: coverage.Of([]repository.Manifest{m}, segments, nil)[0]}
	var text bytes.Buffer
	if err := writeArchives(&text, []archivedLine{l}, now); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{
		"  unseen     some of revisions 19 to 21 by --revision only: nobody saw when between 2026-11-22T11:20:00.000Z and 2026-11-22T11:21:00.000Z\n",
		"  unseen     revisions 23 to 25 by --revision only: nobody saw when between 2026-11-22T11:30:00.000Z and 2026-11-22T11:31:00.000Z\n",
		"  unseen     revision 29 by --revision only: nobody saw when between 2026-11-22T11:40:00.000Z and 2026-11-22T11:41:00.000Z\n",
		"  unseen     and of 2 runs before these\n",
	} {
		if !strings.Contains(text.String(), says) {
			t.Errorf("it does not say %q:\n%s", says, &text)
		}
	}
	listed, err := json.Marshal(l.listed().Unseen)
	if err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{
		`[{"first":1,"last":10,"to":"2026-11-22T11:00:00.000Z"},{"first":11,"last":13,"from":"2026-11-22T11:00:00.000Z","to":"2026-11-22T11:01:00.000Z"},`,
		`{"first":19,"last":21,"from":"2026-11-22T11:20:00.000Z","to":"2026-11-22T11:21:00.000Z","part":true}`,
	} {
		if !strings.Contains(string(listed), says) {
			t.Errorf("JSON lacks %s: %s", says, listed)
		}
	}
}

// TestLastSign: what was archived after the last lease is a sign as well, merged or not.
func TestLastSign(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	ago := func(minutes int) time.Time { return now.Add(-time.Duration(minutes) * time.Minute) }
	one, two := repository.Fingerprint(strings.Repeat("aa", 32)), repository.Fingerprint(strings.Repeat("bb", 32))
	lease := &repository.Lease{Revision: 20, Signer: one, ID: repository.ID{Time: ago(30)}, Release: true}
	live := repository.Segment{First: 21, Last: 30, Signer: two, LastTime: ago(20), Completed: ago(19)}
	merged := live
	merged.Level, merged.Completed = repository.SegmentHour, ago(1)
	older := merged
	older.LastTime = ago(40) // by another clock
	for name, tt := range map[string]struct {
		lease   *repository.Lease
		segment repository.Segment
		want    sign
	}{
		"released":             {lease, repository.Segment{First: 11, Last: 20, Signer: two}, sign{one, 20, ago(30), true, false}},
		"live":                 {lease, live, sign{two, 30, ago(19), false, false}},
		"merged":               {lease, merged, sign{one, 30, ago(20), false, false}},
		"merged, an old clock": {lease, older, sign{one, 30, ago(30), false, false}},
		"merged, no lease":     {nil, merged, sign{two, 30, ago(20), false, false}},
	} {
		l := archivedLine{lease: tt.lease, line: coverage.Timeline{Segments: []repository.Segment{tt.segment}}}
		if got := l.lastSign(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

// TestArchiveLogTrouble: trouble of one part is not over because another part goes on.
func TestArchiveLogTrouble(t *testing.T) {
	var out bytes.Buffer
	l := archiveLog{app: &app{Environment: Environment{Stderr: &out}}, troubled: map[archive.Part]map[string]time.Time{}}
	for _, step := range []struct {
		event archive.Event
		says  string
	}{
		{archive.Event{Part: archive.Reading, Trouble: errors.New("read events: Unavailable")}, "read events: Unavailable"},
		{archive.Event{Part: archive.Reading, Trouble: errors.New("read events: Unavailable again")}, ""},
		{archive.Event{Stored: &archive.Stored{}}, ""},
		{archive.Event{Part: archive.Storing, Trouble: errors.New("put: no space")}, "put: no space"},
		{archive.Event{Part: archive.Beside, Trouble: errors.New("merge: no space")}, "merge: no space"},
		{archive.Event{Stored: &archive.Stored{}}, ""},
		{archive.Event{Well: archive.Storing}, "  what was read is stored"},
		{archive.Event{Part: archive.Storing, Trouble: errors.New("put: no space")}, "put: no space"},
		{archive.Event{Well: archive.Reading}, "  the cluster is read"},
		{archive.Event{Well: archive.Storing}, "  all is well again: what was read is stored"},
	} {
		out.Reset()
		l.say(step.event)
		if got := out.String(); step.says == "" && got != "" || !strings.HasSuffix(strings.TrimSuffix(got, "\n"), step.says) {
			t.Errorf("of %+v it says %q, want %q", step.event, got, step.says)
		}
	}
}
