// Command bench answers one question about speed, memory or latency at a time, on real servers on this machine:
//
//	make bench                       lists the questions
//	make bench NAME=snapshot-speed   answers one
//
// Every answer is a ratio of two things done in the same run, by turns, or a size in bytes, so that it means something on
// another machine too. The program prints the figures, writes them with everything that was measured to
// docs/bench/NAME.json, and exits 1 when one is worse than it may be. It needs the servers of "make etcd" and a disk with
// some space: all data is made in a folder below .cache, with a fixed seed, and removed at the end.
//
// What else runs on the machine changes the figures. The report tells the load, and for each measured piece how much
// processor time the machine spent beside that of what was measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// bench is one question.
type bench struct {
	name     string
	question string
	run      func(ctx context.Context, l *lab, r *report) error
}

func benches() []bench {
	return []bench{
		{"snapshot-speed", "How long does an unpaced snapshot take, compared with etcdctl, tar and sha256sum one after the other?", snapshotSpeed},
		{"snapshot-memory", "How much memory does an agent take for a snapshot, of a usual database and of a large one?", snapshotMemory},
		{"snapshot-latency", "How much do a cluster's writes suffer from a snapshot at the default pace, compared with etcdctl snapshot save?", snapshotLatency},
		{"restore-speed", "How long does a restore take until it serves, compared with tar, etcdutl and a start of etcd?", restoreSpeed},
		{"backup-speed", "How long does an unpaced backup into a folder take, encrypted, compared with etcdctl alone, and with tar and sha256sum after it?", backupSpeed},
		{"backup-memory", "How much memory does a backup take, of a usual database and of a large one?", backupMemory},
		{"backup-latency", "How much do a cluster's writes suffer from a backup at the default pace, compared with etcdctl snapshot save?", backupLatency},
		{"verify-speed", "How long does it take to verify a backup down to every page, compared with unzstd alone?", verifySpeed},
		{"repository-restore", "How long does a restore out of a repository take, compared with etcdutl on the plain file?", repositoryRestore},
		{"list-speed", "How long does the list of 10,000 snapshots take, in a folder and on an S3 server?", listSpeed},
		{"moment-restore", "How much processor time does a restore of any moment take, compared with writing all events to a server once more?", momentRestore},
		{"moment-memory", "How much memory do an archiver and a restore of any moment take, of a large database?", momentMemory},
		{"archive-cost", "How much slower are a cluster's writers while it is archived, how much does the archiver take, and how far behind is it?", archiveCost},
		{"archive-resume", "How long does an archiver that missed 100,000 revisions take to cover the cluster again, compared with a watch from there?", archiveResume},
		{"archive-bytes", "How many bytes does a day of a cluster take, compared with an archive file each hour, and with the same events as JSON in gzip?", archiveBytes},
		{"moment-far", "How long does a restore over 3,600 segments take from a store that answers after 30 ms, compared with reading them one by one?", momentFar},
		{"plan-speed", "How long does the plan of a restore take over 10,000 and 86,400 segments?", planSpeed},
	}
}

// settings are what the flags say. They are for work on the benches; "make bench" leaves them alone.
type settings struct {
	rounds  int
	seed    uint64
	long    bool
	program string
	out     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&s.rounds, "rounds", 5, "how often each side runs")
	flags.Uint64Var(&s.seed, "seed", 1, "seed of the data")
	flags.BoolVar(&s.long, "long", false, "the variant of a bench that takes many minutes, where it has one")
	flags.StringVar(&s.program, "program", filepath.Join("bin", "holdfast"), "the holdfast to measure")
	flags.StringVar(&s.out, "out", "", "file for the report (default docs/bench/NAME.json)")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() == 0 {
		fmt.Fprintln(stdout, "make bench NAME=...")
		for _, b := range benches() {
			fmt.Fprintf(stdout, "  %-17s %s\n", b.name, b.question)
		}
		return 0
	}
	for _, b := range benches() {
		if flags.NArg() == 1 && b.name == flags.Arg(0) && s.rounds > 0 {
			return answer(ctx, b, s, stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "bench: no bench %q with %d rounds; without arguments they are listed\n", flags.Args(), s.rounds)
	return 2
}

// answer runs one bench and gives the exit code.
func answer(ctx context.Context, b bench, s settings, stdout, stderr io.Writer) int {
	held, err := measure(ctx, b, s, stdout, stderr)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "bench %s: %v\n", b.name, err)
		return 1
	case !held:
		fmt.Fprintf(stderr, "bench %s: a figure is worse than it may be\n", b.name)
		return 1
	}
	return 0
}

func measure(ctx context.Context, b bench, s settings, stdout, stderr io.Writer) (held bool, err error) {
	if s.out == "" {
		s.out = filepath.Join("docs", "bench", b.name+".json")
	}
	l, err := openLab(s, stderr)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	r, err := newReport(ctx, b, s, l)
	if err != nil {
		return false, err
	}
	if err := b.run(ctx, l, r); err != nil {
		return false, err
	}
	if err := r.finish(); err != nil {
		return false, err
	}
	r.print(stdout)
	return r.held(), r.write(s.out)
}
