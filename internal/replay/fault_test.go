package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-project/holdfast/internal/history"
)

// childVariable makes the test binary a process that replays once: "BASE\nFOLDER\nWHEN". It kills itself at its WHEN-th look
// at the context; 0 is never.
const childVariable = "HOLDFAST_TEST_REPLAY"

func TestMain(m *testing.M) {
	if order := strings.Split(os.Getenv(childVariable), "\n"); len(order) == 3 {
		if err := replayOnce(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// deadly is a context that ends the process.
type deadly struct {
	context.Context
	left int
}

func (d *deadly) Err() error {
	if d.left--; d.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return nil
}

func replayOnce(order []string) error {
	base, err := scan(order[0])
	if err != nil {
		return err
	}
	when, err := strconv.Atoi(order[2])
	if err != nil {
		return err
	}
	work := filepath.Join(order[1], "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	l := puts(base.Info.Revision+1, 3000, 1000)
	last := l[len(l)-1].Revision
	_, err = Backend(&deadly{context.Background(), when}, filepath.Join(order[1], "db"), base,
		[]Segment{l.segment(history.Range{First: base.Info.Revision + 1, Last: last})}, Options{Target: last, Work: work})
	if err == nil {
		return nil
	}
	for _, folder := range []string{order[1], work} {
		left, readErr := os.ReadDir(folder)
		err = errors.Join(err, readErr)
		for _, e := range left {
			if e.Name() != "work" {
				err = errors.Join(err, fmt.Errorf("%q is left", e.Name()))
			}
		}
	}
	return err
}

// TestFullDisk replays on small disks of its own, which a mount namespace hides from everybody else: they are full while the
// spill file is written, the pages, and the other buckets.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	base := based(t, puts(2, 300, 1000))
	namespace := []string{"--mount"}
	if os.Geteuid() != 0 {
		namespace = append(namespace, "--map-root-user")
	}
	whole := 0
	for _, size := range []string{"1m", "2900k", "3300k", "5m", "7m", "7200k", "7240k", "7280k", "7320k", "7400k", "7600k", "20m"} {
		disk := t.TempDir()
		words := append(namespace, "sh", "-c", `mount -t tmpfs -o size=`+size+` tmpfs "$1" && "$0" && test "$(ls -A "$1" "$1/work" | grep -c db)" = 1`, os.Args[0], disk)
		cmd := exec.CommandContext(t.Context(), "unshare", words...)
		cmd.Env = append(os.Environ(), childVariable+"="+base.File+"\n"+disk+"\n0")
		output, err := cmd.CombinedOutput()
		if err == nil && len(output) == 0 {
			whole++
			continue
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(string(output), "no space left on device") || strings.Contains(string(output), "is left") {
			t.Errorf("%s: %v\n%s", size, err, output)
		}
	}
	if whole < 1 || whole > 8 {
		t.Errorf("%d were large enough", whole)
	}
}

// TestKill ends the process anywhere: nothing gets the name of the result before it is whole, and the spill has none.
func TestKill(t *testing.T) {
	t.Parallel()
	base := based(t, puts(2, 300, 1000))
	for when, n := 1, 0; ; when, n = when+1+when*2/3, n+1 {
		folder := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childVariable+"="+base.File+"\n"+folder+"\n"+strconv.Itoa(when))
		output, err := cmd.CombinedOutput()
		if err == nil {
			if scanBase(t, filepath.Join(folder, "db")); n < 8 {
				t.Errorf("killed only %d times", n)
			}
			return
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("look %d: %v\n%s", when, err, output)
		}
		if _, err := os.Lstat(filepath.Join(folder, "db")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("look %d: the result: %v", when, err)
		}
		left, err := os.ReadDir(filepath.Join(folder, "work"))
		must(t, err)
		if len(left) > 1 || len(left) == 1 && !strings.HasPrefix(left[0].Name(), "replay-") {
			t.Errorf("look %d: %v is left", when, left)
		}
	}
}

// TestMemory holds what the documentation says of memory: by keys, not by values.
func TestMemory(t *testing.T) {
	const n = 300_000
	for name, tt := range map[string]struct {
		fill func(*replay)
		most float64
	}{
		"decided": {func(r *replay) {
			for i := range n {
				r.keys.seen[r.keys.id(fmt.Appendf(nil, "key-%d", i))] = decided
			}
		}, 48},
		"live": {func(r *replay) {
			for i := range n {
				number, err := r.places.add(place{main: int64(i)})
				must(t, err)
				r.keys.seen[r.keys.id(fmt.Appendf(nil, "key-%d", i))] = number
			}
		}, 72},
	} {
		before := heapBytes()
		r := &replay{keys: newKeys(), places: newPlaces()}
		tt.fill(r)
		each := float64(heapBytes()-before-placeBlock*24) / n
		t.Logf("%s: %.1f bytes for each key", name, each)
		if each > tt.most {
			t.Errorf("%s: %.1f bytes for each key, want at most %v", name, each, tt.most)
		}
		runtime.KeepAlive(r)
	}
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
