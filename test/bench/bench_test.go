package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 1, 5},
		{[]float64{0, 10}, 0.99, 9.9},
	} {
		if got := quantile(test.values, test.q); got != test.want {
			t.Errorf("quantile %v of %v is %v, want %v", test.q, test.values, got, test.want)
		}
	}
}

// rounds makes a report of two sides that took these times.
func rounds(a, b []float64) *report {
	r := &report{}
	for i := range a {
		r.add(i+1, side{Side: "a", Figures: figures{"wall_s": a[i]}})
		r.add(i+1, side{Side: "b", Figures: figures{"wall_s": b[i]}})
	}
	return r
}

func TestGates(t *testing.T) {
	// The ratios of the pairs are 0.5, 2 and 0.4; that of the medians would be another.
	r := rounds([]float64{1, 8, 4}, []float64{2, 4, 10})
	r.gateRatio("wall_s", "a", "b", 0.5)
	if !r.held() || r.Gates[0].Got != 0.5 {
		t.Errorf("gate is %+v, want it held with 0.5", r.Gates[0])
	}
	r.gateMost("wall_s", "a", 7.9)
	if r.held() || r.Gates[1].Got != 8 {
		t.Errorf("gate is %+v, want it missed with 8", r.Gates[1])
	}
	r.gateMedian("wall_s", "a", 4)
	if !r.Gates[2].Held || r.Gates[2].Got != 4 {
		t.Errorf("gate is %+v, want it held with 4", r.Gates[2])
	}
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	if got := r.Medians["a"]["wall_s"]; got != 4 {
		t.Errorf("median is %v, want 4", got)
	}
	var out bytes.Buffer
	r.print(&out)
	for _, want := range []string{"held   wall_s", "MISSED wall_s", "largest of 1 8 4", "median of 0.5 2 0.4"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output has no %q:\n%s", want, out.String())
		}
	}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(text, &again); err != nil || len(again.Rounds) != 3 || again.Rounds[1].Sides[1].Figures["wall_s"] != 4 {
		t.Errorf("report reads back as %+v, %v", again, err)
	}
}

// TestLatencyCountsFromTheDueTime holds what an open loop is for: a server that answers nothing for a while makes late every
// write that was due meanwhile, and not only the one it was asked first.
func TestLatencyCountsFromTheDueTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		resumes := began.Add(time.Second)
		p := startPuts(t.Context(), 100, func(context.Context, int) error {
			time.Sleep(time.Until(resumes))
			return nil
		})
		time.Sleep(2*time.Second - time.Millisecond)
		samples, err := p.end()
		if err != nil {
			t.Fatal(err)
		}
		if len(samples) != 200 {
			t.Errorf("%d puts in 2 s, want 200", len(samples))
		}
		late := 0
		for _, s := range samples {
			if want := max(0, resumes.Sub(s.due)); s.latency != want {
				t.Errorf("latency of the put due at %s is %s, want %s", s.due.Sub(began), s.latency, want)
			}
			if s.latency > 0 {
				late++
			}
		}
		if late != 100 {
			t.Errorf("%d puts are late, want 100", late)
		}
		f := figures{}
		if err := latencies(samples, began.Add(-time.Second), resumes, f); err == nil {
			t.Error("100 puts are enough for a 99th percentile")
		}
		if err := latencies(samples, began, began.Add(2*time.Second), f); err != nil || f["slowest_ms"] != 1000 || f["puts"] != 200 {
			t.Errorf("figures are %v, %v", f, err)
		}
	})
}

func TestPutsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		p := startPuts(t.Context(), 100, func(_ context.Context, i int) error {
			if i == 3 {
				return broken
			}
			return nil
		})
		time.Sleep(time.Second)
		if _, err := p.end(); !errors.Is(err, broken) {
			t.Errorf("error is %v, want %v", err, broken)
		}
	})
}

// TestMemoryOfChildren runs a shell whose child grows large, and looks at both together.
func TestMemoryOfChildren(t *testing.T) {
	const size = 64 << 20
	// There is no end of a line in it, so tail keeps all of it.
	script := `head -c 67108864 /dev/zero | tail -n 1 >/dev/null; :`
	cmd := exec.Command("sh", "-c", script)
	f := figures{}
	if err := tool(cmd, f, "tail"); err != nil {
		t.Fatal(err)
	}
	if f["memory_bytes"] < size || f["memory_bytes"] > 20*size {
		t.Errorf("memory is %.0f, want at least %d", f["memory_bytes"], size)
	}
	if f["cpu_s"] <= 0 || f["tail_s"] <= 0 {
		t.Errorf("figures are %v", f)
	}
}

func TestWatchMemory(t *testing.T) {
	before, _, err := memoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	watch, err := watchMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const size = 32 << 20
	held, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(held); err != nil {
		t.Fatal(err)
	}
	most, err := watch.end()
	if err != nil {
		t.Fatal(err)
	}
	// Whatever the samples missed, the kernel's own peak has it. It counts pages in batches: hence the half.
	if most.rss < before.rss+size/2 {
		t.Errorf("peak is %d bytes after %d before, want %d more", most.rss, before.rss, size)
	}
}

func TestToolThatFails(t *testing.T) {
	err := tool(exec.Command("sh", "-c", "echo why not >&2; exit 3"), figures{}, "sh")
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "why not") {
		t.Errorf("error is %v, want the exit status and what it said", err)
	}
}

func TestMachine(t *testing.T) {
	m, err := thisMachine(mustGetwd(t))
	if err != nil {
		t.Fatal(err)
	}
	if m.CPU == "" || m.Cores < 1 || m.Memory < 1<<20 || m.Kernel == "" || m.Disk == "" {
		t.Errorf("machine is %+v", m)
	}
}

func mustGetwd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestArguments(t *testing.T) {
	var out, problems bytes.Buffer
	if code := run(t.Context(), nil, &out, &problems); code != 0 || !strings.Contains(out.String(), "snapshot-speed") {
		t.Errorf("without a name: exit %d, %s", code, out.String())
	}
	for _, args := range [][]string{{"no-such"}, {"snapshot-speed", "restore-speed"}, {"-rounds", "0", "snapshot-speed"}, {"-x"}} {
		problems.Reset()
		if code := run(t.Context(), args, &out, &problems); code != 2 || problems.Len() == 0 {
			t.Errorf("%q: exit %d, %s", args, code, problems.String())
		}
	}
}
