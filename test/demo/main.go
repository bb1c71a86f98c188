// Command demo walks through the whole backups page on this machine, tells what it does, and proves the result: three
// units of etcd with the keyspace of a Kubernetes cluster, a snapshot, its copy, the refusal to restore on three units, a
// restore into a new cluster, and a comparison of everything in it. It is what `make demo` runs.
//
// Every line after a "$" is run by a shell as it is printed, with the real binary, and what follows is its real output.
// All of it happens in a new temporary folder. The first check that fails ends the demo with exit code 1. However it
// ends, it takes its processes and its folder away, unless -keep is given. Only SIGKILL keeps it from that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130

	// limit ends a demo that hangs. A usual one takes half a minute.
	limit = 5 * time.Minute
)

// errInterrupted means that a person wants no more of it.
var errInterrupted = errors.New("interrupted")

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options are the flags.
type options struct {
	// holdfast is the binary to show.
	holdfast string
	// objects is how many Kubernetes objects are written.
	objects int
	// keep leaves the clusters running.
	keep bool
}

func parseOptions(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.holdfast, "holdfast", "bin/holdfast", "the holdfast binary to show")
	flags.IntVar(&o.objects, "objects", 2000, "how many Kubernetes objects to write")
	flags.BoolVar(&o.keep, "keep", false, "leave the clusters running for a look, and say how to destroy them")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.objects < 100:
		err = fmt.Errorf("-objects must be at least 100, given %d", o.objects)
	}
	if err != nil {
		fmt.Fprintf(stderr, "demo: %v\n", err)
	}
	return o, err
}

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	}

	// SIGPIPE is there so that a reader that goes away, as in `make demo | head`, is an interruption like any other. The
	// signals stay caught to the end: a second Ctrl-C must not cut the clean-up off.
	signalled, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(signalled, limit, fmt.Errorf("the demo is not through after %s", limit))
	defer cancel()

	err = play(ctx, o, newVoice(stdout))
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted):
		fmt.Fprintf(stderr, "demo: %v\n", err)
		return exitInterrupted
	default:
		fmt.Fprintf(stderr, "\nDEMO FAILED\n%v\n", err)
		return exitFailed
	}
}

// play sets the stage, runs the steps and clears the stage.
func play(ctx context.Context, o options, v *voice) (err error) {
	started := time.Now()
	d, err := newDemo(o, v)
	if err != nil {
		return err
	}
	done := false
	// Deferred, so that a panic leaves nothing behind either.
	defer func() {
		if o.keep && !errors.Is(err, errInterrupted) {
			err = errors.Join(err, d.tellHowToDestroy())
		} else {
			err = errors.Join(err, d.cleanUp(ctx, done))
		}
		if err == nil {
			d.summary(time.Since(started))
		}
		err = errors.Join(err, v.err)
	}()

	d.say("The backups page, from a snapshot to the proof that the restore is right. It takes about half a minute.",
		"All of it happens in "+d.folder+"; no file or cluster of yours is touched.",
		"Ctrl-C ends it at any time, and it cleans up after itself.",
		"Here juju is another name of holdfast: a link to the same program, which then speaks as the page does.")
	steps := d.steps()
	for i, step := range steps {
		d.title(fmt.Sprintf("[%d/%d] %s", i+1, len(steps), step.title))
		err := step.run(ctx)
		if cut := cutOff(ctx); cut != nil {
			err = cut // what else went wrong comes from that
		}
		if err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.title, err)
		}
	}
	done = true
	return nil
}

// cutOff gives why the demo was ended from outside, nil when it was not.
func cutOff(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%w: %w", errInterrupted, context.Cause(ctx))
	}
	return context.Cause(ctx)
}

// newDemo makes the folder of one demo, with holdfast in it under both names that it goes by.
func newDemo(o options, v *voice) (_ *demo, err error) {
	for _, tool := range []string{"sh", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("find %s: %w; on Debian it is in the packages dash and coreutils", tool, err)
		}
	}
	program, err := filepath.Abs(o.holdfast)
	if err != nil {
		return nil, err
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return nil, fmt.Errorf("find the holdfast binary: %w; `make build` makes it", err)
	}
	folder, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return nil, err
	}
	d := &demo{voice: v, folder: folder, program: program, objects: o.objects}
	for _, name := range []string{"home", "bin", "work"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(folder, name), 0o700))
	}
	for _, name := range []string{"holdfast", "juju"} {
		err = errors.Join(err, os.Symlink(program, filepath.Join(folder, "bin", name)))
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	return d, nil
}
