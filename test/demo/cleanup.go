package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/inventory"
)

// cleanTime bounds the clean-up. Destroying both clusters takes some seconds.
const cleanTime = time.Minute

// cleanUp destroys the clusters as a person would and removes the folder. It goes on when ctx has ended. Processes that
// survive the destroy are killed, and are an error: of a demo that came to its end, that is one more failed check.
func (d *demo) cleanUp(ctx context.Context, done bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	d.title("Clean up")
	if !done {
		d.say("This takes a few seconds; another Ctrl-C makes it no faster.")
	}
	applications, err := d.applications()
	for _, application := range applications {
		_, failed := d.run(ctx, "holdfast destroy "+application+" --yes")
		for range 3 {
			if errors.Is(failed, errStruck) {
				_, failed = d.run(ctx, "holdfast destroy "+application+" --yes")
			}
		}
		err = errors.Join(err, failed)
	}
	err = errors.Join(err, d.killRest(ctx))
	if gone := os.RemoveAll(d.folder); gone != nil {
		err = errors.Join(err, fmt.Errorf("remove the demo's folder: %w", gone))
	}
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	d.say("", "No process is left, and "+d.folder+" is removed.")
	return nil
}

// applications are the clusters that were deployed, even in part.
func (d *demo) applications() ([]string, error) {
	inv, err := inventory.Open(filepath.Join(d.home(), "inventory.yaml")).View()
	if err != nil {
		return nil, err
	}
	return inv.Names(), nil
}

// killRest kills what is left of the demo's agents and etcd servers and waits until they are gone. That there were any is
// an error.
func (d *demo) killRest(ctx context.Context) error {
	killed := map[int]string{}
	for {
		left, err := d.kill(killed)
		if err != nil {
			return err
		}
		if left == 0 {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d processes do not end", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(killed) > 0 {
		return fmt.Errorf("these processes were left and had to be killed:\n%s", strings.Join(slices.Sorted(maps.Values(killed)), "\n"))
	}
	return nil
}

// kill kills every process that runs the demo's program with the demo's folder in its command line, notes it in killed,
// and gives how many there were.
func (d *demo) kill(killed map[int]string) (found int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // no process
		}
		// The handle comes first: it never comes to mean another process, as the number can.
		process, err := os.FindProcess(pid)
		if err != nil {
			return found, err
		}
		if line, ours := d.owns(pid); ours {
			found++
			killed[pid] = fmt.Sprintf("%d %s", pid, line)
			err = process.Kill()
		}
		if err = errors.Join(err, process.Release()); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return found, fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return found, nil
}

// owns tells whether a process is an agent or an etcd of the demo, and gives its command line. What it cannot read is
// gone or another user's.
func (d *demo) owns(pid int) (commandLine string, ours bool) {
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	program, err := os.Readlink(filepath.Join(folder, "exe"))
	if err != nil || strings.TrimSuffix(program, " (deleted)") != d.program {
		return "", false
	}
	words, err := os.ReadFile(filepath.Join(folder, "cmdline"))
	if err != nil {
		return "", false
	}
	commandLine = strings.ReplaceAll(strings.TrimRight(string(words), "\x00"), "\x00", " ")
	return commandLine, strings.Contains(commandLine, d.folder+"/")
}

// tellHowToDestroy is for -keep.
func (d *demo) tellHowToDestroy() error {
	applications, err := d.applications()
	if err != nil {
		return err
	}
	d.title("Kept for a look")
	d.say("In a shell:", "",
		"  export HOLDFAST_HOME="+d.home()+" PATH="+filepath.Join(d.folder, "bin")+":$PATH",
		"  cd "+filepath.Join(d.folder, "work")+" && holdfast status", "",
		"To be rid of it, in the same shell:", "")
	var destroy strings.Builder
	for _, application := range applications {
		destroy.WriteString("holdfast destroy " + application + " --yes && ")
	}
	d.say("  " + destroy.String() + "cd / && rm -r " + d.folder)
	return nil
}

// summary ends a demo in which everything was right.
func (d *demo) summary(took time.Duration) {
	d.title(fmt.Sprintf("Proven, in %.0f seconds", took.Seconds()))
	for _, statement := range d.proven {
		d.say("  - " + statement)
	}
}
