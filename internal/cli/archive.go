package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/archiver"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
)

func (a *app) archive() *cobra.Command {
	var f repoFlags
	var etcd etcdFlags
	var o archive.Options
	var rate, spool string
	command := &cobra.Command{
		Use:   "archive",
		Short: "Archive every revision of a cluster into a repository, until it is ended",
		Long: "Archive every revision of a cluster into a repository, so that each moment can be restored: a watch on all keys is written\n" +
			"as small sealed segments, seconds after the cluster wrote. It begins with a snapshot, and takes one from time to time, and\n" +
			"whenever nothing proves that the history goes on. SIGINT and SIGTERM publish what was read and end it.\n" +
			"It writes nothing to etcd. Several may run: one archives, the others wait and take over within a minute.\n" + volumesWarning,
		Example: "  " + a.Program + " archive --repo file:///srv/backups --cluster prod --unit etcd\n" +
			"  " + a.Program + " archive --cluster prod --endpoints https://10.0.0.1:2379,https://10.0.0.2:2379 --cacert ca.crt --cert c.crt --key c.key",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			pace, err := parsePace(rate)
			if err != nil {
				return err
			}
			limit, err := humanize.ParseBytes(spool)
			if err != nil || limit < 1<<20 || limit > 1<<50 {
				return usagef("--spool-limit must be a size from 1MiB on, such as 512MiB, given %q", spool)
			}
			o.SpoolLimit = int64(limit)
			if o.Flush < 10*time.Millisecond || o.SnapshotEvery < time.Minute {
				return usagef("--flush must be 10ms at least and --snapshot-every 1m, given %s and %s", o.Flush, o.SnapshotEvery)
			}
			if o.HashEvery < 10*time.Second {
				return usagef("--hash-every must be 10s at least, given %s", o.HashEvery)
			}
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			if o.Cluster, err = f.oneCluster(c.Context(), repo); err != nil {
				return hinted{err, "--cluster NAME says what the cluster is called in the repository"}
			}
			clients, authority, err := etcd.dial(a)
			if err != nil {
				return err
			}
			defer func() { _ = closeAll(clients) }()
			o.CASHA256 = authority
			return a.runArchive(c.Context(), repo, clients, o, pace, &f)
		},
	}
	flags := command.Flags()
	f.register(a, flags)
	f.registerCluster(flags)
	etcd.register(a, flags)
	flags.DurationVar(&o.Flush, "flush", time.Second, "how long an event waits at most before it is sent")
	flags.StringVar(&spool, "spool-limit", "512MiB", "how much may wait on this machine's disk while the store does not take it")
	flags.DurationVar(&o.SnapshotEvery, "snapshot-every", 24*time.Hour, "age at which a snapshot is followed by the next")
	flags.DurationVar(&o.HashEvery, "hash-every", 10*time.Minute, "how often the members are asked for a hash of all they hold, which drills of moments are held against; each reads everything for it")
	flags.StringVar(&rate, "max-rate", "automatic", "pace of snapshots, as in backup; automatic is three times as fast while nothing covers the cluster")
	flags.BoolVar(&o.NewTimeline, "new-timeline", false, "the cluster was restored or replaced since it was read last, and that is known")
	return command
}

func (a *app) runArchive(ctx context.Context, repo *repository.Repository, clients []*member.Client, o archive.Options, pace capture.Rate, f *repoFlags) error {
	writer, err := a.writer()
	if err != nil {
		return err
	}
	home, err := a.home()
	if err != nil {
		return err
	}
	a.limitMemory(archiveMemory)
	o.Dir = archiver.Folder(home, repo, o.Cluster)
	log := archiveLog{app: a, json: f.output == "json", quiet: f.quiet, troubled: map[archive.Part]map[string]time.Time{}}
	o.Observe = log.say
	err = archiver.Run(ctx, repo, writer, archive.Fixed(clients), o, pace)
	switch {
	case errors.Is(err, repository.ErrNotEnrolled):
		return a.enrollHint(err, writer, "")
	case errors.Is(err, repository.ErrRevoked):
		return hinted{err, fmt.Sprintf("this host needs a new signing key: move %s away, then key enroll", writer.KeyFile())}
	case errors.Is(err, backup.ErrOtherCluster), errors.Is(err, backup.ErrWentBack):
		return hinted{err, "if the cluster was restored: --new-timeline; if it is another cluster: another --cluster name"}
	case errors.Is(err, durable.ErrLocked):
		return hinted{err, "an archiver of this cluster runs on this machine already"}
	}
	return err
}

// archiveMemory is what an archiver may take before the collector of garbage looks more often than it does by itself, in bytes:
// a snapshot of a large database comes near it. Events alone need a third, and to collect as often for them as a backup does
// would be a fourth of all processor time that they take.
const archiveMemory = 96 << 20

// limitMemory makes the collector of garbage look more often from so many bytes on, unless the caller of the program decides.
func (a *app) limitMemory(bytes int64) {
	if a.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(bytes)
	}
}

// archiveLog tells what an archiver does: a line for each event on standard error, or JSON lines on standard output.
type archiveLog struct {
	*app
	json, quiet bool
	// troubled is when each kind of trouble of a part was told last; a store that is away gives one line each minute, and one when
	// it is back.
	troubled map[archive.Part]map[string]time.Time
	// watching is what was told last of what is read, and when: a snapshot that fails is tried again every few seconds.
	watching     string
	watchingTold time.Time
}

// archiveLine is one line of archive --output json; docs/contracts/repository.md has the form.
type archiveLine struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"`
	Text  string    `json:"text"`
	// First and Last are the revisions that it is about; left out when it is about none.
	First int64 `json:"first,omitempty"`
	Last  int64 `json:"last,omitempty"`
}

func (l *archiveLog) say(e archive.Event) {
	now := time.Now()
	line := archiveLineOf(e, now)
	line.Time = now.UTC().Truncate(time.Millisecond)
	if delete(l.troubled, e.Well); e.Well != "" && l.allWell() {
		line.Text = "all is well again: " + line.Text
	}
	switch {
	case l.json:
		_ = json.NewEncoder(l.Stdout).Encode(line)
	case e.Trouble != nil && l.toldOf(e.Part, e.Trouble, now):
	case e.Watching != nil && e.Watching.Why != nil && line.Text == l.watching && now.Sub(l.watchingTold) < time.Minute:
	case (e.Stored != nil || e.Merged != nil) && (l.quiet || !terminal(l.Stderr)), e.Progress != nil && l.quiet:
		// One each second is for a person who looks on; a log has one each minute.
	default:
		if e.Watching != nil {
			l.watching, l.watchingTold = line.Text, now
		}
		fmt.Fprintf(l.Stderr, "%s  %s\n", line.Time.Format("2006-01-02T15:04:05Z"), line.Text)
	}
}

// toldOf tells whether trouble of that kind, by its first words, was told within a minute. What the archive goes on without is not
// awaited to be over.
func (l *archiveLog) toldOf(part archive.Part, trouble error, now time.Time) bool {
	told := l.troubled[part]
	if told == nil {
		told = map[string]time.Time{}
	}
	kind, _, _ := strings.Cut(trouble.Error(), ":")
	if last, found := told[kind]; found && now.Sub(last) < time.Minute {
		return true
	}
	told[kind], l.troubled[part] = now, told
	return false
}

// allWell tells whether no part that is told of when it goes on has trouble.
func (l *archiveLog) allWell() bool {
	for part := range l.troubled {
		if part != archive.Beside {
			return false
		}
	}
	return true
}

// wellText says of each part that it goes on.
var wellText = map[archive.Part]string{
	archive.Beginning: "the repository and the cluster answer",
	archive.Reading:   "the cluster is read",
	archive.Covering:  "there is nothing that a snapshot has to cover",
	archive.Storing:   "what was read is stored",
}

// progressText says how far an archive is, in a few words.
func progressText(p *archive.Progress, now time.Time) string {
	if p.Revision == 0 {
		return "nothing is stored yet"
	}
	text := fmt.Sprintf("everything up to revision %s is stored", p.Revision)
	switch {
	case p.Awaits:
		text += "; what came after it waits for a snapshot"
	case p.Waiting > 0:
		text += fmt.Sprintf(", up to %s is read; %s wait for the store", p.Read, humanize.Bytes(uint64(p.Waiting)))
	case p.AsOf.IsZero():
	default:
		text += fmt.Sprintf("; %s ago nothing came after it", max(now.Sub(p.AsOf), 0).Round(100*time.Millisecond))
	}
	return text
}

func archiveLineOf(e archive.Event, now time.Time) archiveLine {
	line := archiveLine{}
	set := func(event string, first, last int64, format string, args ...any) {
		line = archiveLine{Event: event, First: first, Last: last, Text: fmt.Sprintf(format, args...)}
	}
	switch {
	case e.Watching != nil:
		w := e.Watching
		if w.Why != nil {
			set("watching", int64(w.From), 0, "reading %s, %s, from revision %s, while a snapshot is taken of what is before: %v", w.Endpoint, w.Role, w.From, w.Why)
			break
		}
		set("watching", int64(w.From), 0, "reading %s, %s, from revision %s, %d behind", w.Endpoint, w.Role, w.From, w.Behind)
	case e.Stored != nil:
		s := e.Stored.Segment
		set("stored", int64(s.First), int64(s.Last), "stored %s, %s, %s after the first; %s wait", s.Range().Words(),
			humanize.Bytes(uint64(s.Object.Size)), e.Stored.Lag.Round(time.Millisecond), humanize.Bytes(uint64(e.Stored.Waiting)))
	case e.Snapshot != nil:
		m := e.Snapshot.Manifest
		set("snapshot", int64(m.Point().First), int64(m.Content.Revision), "snapshot %s at revision %s, history from %s: %s", m.ID.Short(), m.Content.Revision, m.Point().First, e.Snapshot.Why)
	case e.Gap != nil:
		set("gap", int64(e.Gap.First), int64(e.Gap.Last), "GAP: lost %s: %s", history.Range{First: e.Gap.First, Last: e.Gap.Last}.Words(), e.Gap.Reason)
	case e.NewTimeline != nil:
		set("new-timeline", 0, 0, "NEW TIMELINE: the history that was archived does not go on: %v", e.NewTimeline)
	case e.Broken != nil:
		set("broken", 0, 0, "A MEMBER'S EVENTS HAVE A HOLE, and a snapshot is taken instead: %v", e.Broken)
	case e.Standby != nil:
		set("standby", 0, int64(e.Standby.Revision), "another archiver, signer %s, has come to revision %s: waiting while it is at work", e.Standby.Signer.Short(), e.Standby.Revision)
	case e.Begun != nil && e.Begun.Before != nil:
		set("begun", 0, int64(e.Begun.Revision), "the other archiver, signer %s, is silent: taking over from revision %s", e.Begun.Before.Signer.Short(), e.Begun.Revision)
	case e.Begun != nil && e.Begun.Revision == 0:
		set("begun", 0, 0, "archiving timeline %s, of which nothing is archived yet", e.Begun.Timeline)
	case e.Begun != nil:
		set("begun", 0, int64(e.Begun.Revision), "archiving timeline %s, which is archived up to revision %s", e.Begun.Timeline, e.Begun.Revision)
	case e.Merged != nil:
		s := e.Merged.Segment
		set("merged", int64(s.First), int64(s.Last), "merged %s into %s, %s, %s", plural(e.Merged.Inputs, "segment"), s.Range().Words(), levelName(s.Level), humanize.Bytes(uint64(s.Object.Size)))
	case e.Hashes != nil && e.Hashes.Equal:
		set("hashes", 0, int64(e.Hashes.Revision), "the members agree at revision %s", e.Hashes.Revision)
	case e.Hashes != nil:
		set("hashes-differ", 0, int64(e.Hashes.Revision), "THE MEMBERS DIFFER at revision %s: %v", e.Hashes.Revision, e.Hashes.Suspects)
	case e.Progress != nil:
		set("progress", 0, int64(e.Progress.Revision), "goes on: %s", progressText(e.Progress, now))
	case e.Ended != nil:
		set("ended", 0, int64(e.Ended.Revision), "ended: %s", progressText(e.Ended, now))
	case e.Well != "":
		set("well", 0, 0, "%s", wellText[e.Well])
	default:
		set("trouble", 0, 0, "%v", e.Trouble)
	}
	return line
}
