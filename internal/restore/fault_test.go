package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// childVariable makes the test binary a process that builds once: "BACKEND\nSTAGE\nWAL-STAGE".
const childVariable = "HOLDFAST_TEST_BUILD"

// freshVariable makes it one that restores where there is no data: "BACKEND\nPARENT\nWHEN", see fillDisk.
const freshVariable = "HOLDFAST_TEST_FRESH"

func TestMain(m *testing.M) {
	for variable, child := range map[string]func(order []string) error{childVariable: buildOnce, freshVariable: freshOnce} {
		order := strings.Split(os.Getenv(variable), "\n")
		if len(order) != 3 {
			continue
		}
		if err := child(order); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func buildOnce(order []string) error {
	info, err := scan(order[0])
	if err != nil {
		return err
	}
	stage := datadir.Stage{Data: order[1], WAL: order[2]}
	_, err = Build(context.Background(), Options{Backend: order[0], Source: info, Name: testName, PeerURL: testPeer, Stage: stage})
	return err
}

func freshOnce(order []string) error {
	info, err := scan(order[0])
	if err != nil {
		return err
	}
	filler, dir := filepath.Join(order[1], "filler"), filepath.Join(order[1], "data")
	if order[2] == "mounted" || order[2] == "leftover" {
		dir = order[1]
	}
	if order[2] == "leftover" { // of a restore that was killed: it takes the space that the next one needs
		half := filepath.Join(dir, workName, "data", "half")
		if err := errors.Join(os.MkdirAll(filepath.Dir(half), 0o700), os.WriteFile(half, make([]byte, 80<<20), 0o600)); err != nil {
			return err
		}
	}
	_, err = Fresh(context.Background(), FreshOptions{
		DataDir: dir, Name: testName, PeerURL: testPeer, Size: info.Size,
		Fetch: func(ctx context.Context, dst io.Writer, scanner *snapshot.Scanner) error {
			if order[2] == "before" {
				if err := fillDisk(filler); err != nil {
					return err
				}
			}
			err := copyScanned(ctx, order[0], dst, scanner)
			if order[2] == "behind" && err == nil {
				err = fillDisk(filler)
			}
			return err
		},
	})
	left, readErr := os.ReadDir(order[1])
	for _, e := range left {
		if e.Name() != filepath.Base(filler) {
			err = errors.Join(err, fmt.Errorf("%q is left", e.Name()))
		}
	}
	return errors.Join(err, readErr)
}

// fillDisk takes all the space that is left, as somebody else may while a restore is on its way.
func fillDisk(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = file.Write(make([]byte, 64<<10))
	}
	if closeErr := file.Close(); !errors.Is(err, syscall.ENOSPC) || closeErr != nil {
		return errors.Join(err, closeErr)
	}
	return nil
}

// TestFreshOnFullDisk restores on a small disk of its own, which a mount namespace hides from everybody else.
func TestFreshOnFullDisk(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	fill(t, server, 150)
	source := save(t, server)
	must(t, server.Stop())
	need := humanize.Bytes(uint64(FreshOptions{Size: source.info.Size}.space()))
	namespace := []string{"--mount"}
	if os.Geteuid() != 0 {
		namespace = append(namespace, "--map-root-user")
	}
	for _, tt := range []struct {
		when, size string
		want       []string
	}{
		{"never", "100m", []string{"no space left for the restore: it needs " + need, "are free"}},
		{"before", "300m", []string{"no space left on device", "takes " + need}},
		{"behind", "300m", []string{"no space left on device", "takes " + need}},
		{"never", "300m", nil},
		// The disk itself is the data dir.
		{"mounted", "100m", []string{"no space left for the restore: it needs " + need, "are free"}},
		{"mounted", "300m,ro", []string{"read-only file system"}},
		{"mounted", "300m,mode=0755", nil},
		{"leftover", "200m", nil},
	} {
		t.Run(tt.when+" "+tt.size, func(t *testing.T) {
			t.Parallel()
			disk := t.TempDir()
			words := append(namespace, "sh", "-c", `mount -t tmpfs -o size=`+tt.size+` tmpfs "$1" && exec "$0"`, os.Args[0], disk)
			cmd := exec.CommandContext(t.Context(), "unshare", words...)
			cmd.Env = append(os.Environ(), freshVariable+"="+source.path+"\n"+disk+"\n"+tt.when)
			output, err := cmd.CombinedOutput()
			if tt.want == nil {
				left := map[bool]string{true: "member", false: "data"}[tt.when != "never"]
				if err == nil || string(output) != fmt.Sprintf("%q is left\n", left) {
					t.Errorf("fresh: %v\n%s", err, output)
				}
				return
			}
			for _, want := range tt.want {
				if err == nil || !strings.Contains(string(output), want) || strings.Contains(string(output), "is left") {
					t.Errorf("fresh: %v, want %q\n%s", err, want, output)
				}
			}
		})
	}
}

// TestFullAndBrokenDisk lets every call of one kind fail, as a full or broken disk does, in the code of etcd and bbolt as
// well as in ours. That code would end the process in some of these cases; here it must give an error and an empty stage.
func TestFullAndBrokenDisk(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace: run `make tools` (%v)", err)
	}
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	fill(t, server, 150)
	for i := range 5 { // Enough for the disk to be asked while the backend is copied.
		_, err := server.Client.Put(t.Context(), fmt.Sprint("/large/", i), strings.Repeat("x", 1<<20))
		must(t, err)
	}
	source := save(t, server)
	must(t, server.Stop())
	for name, tt := range map[string]struct {
		injection string
		backend   bool // only calls on the file of the backend
	}{
		"copy":             {injection: "sync_file_range:error=EIO"},
		"commit":           {injection: "pwrite64:error=ENOSPC"},
		"commit, backend":  {injection: "pwrite64:error=ENOSPC", backend: true},
		"sync":             {injection: "fdatasync:error=EIO"}, // of bbolt and of the WAL
		"sync, backend":    {injection: "fdatasync:error=EIO", backend: true},
		"WAL file":         {injection: "fallocate:error=ENOSPC"},
		"size":             {injection: "ftruncate:error=ENOSPC"},
		"size, backend":    {injection: "ftruncate:error=ENOSPC", backend: true}, // the trailer is cut off
		"seal":             {injection: "fsync:error=EIO"},
		"seal, backend":    {injection: "fsync:error=EIO", backend: true},
		"rename":           {injection: "renameat:error=EIO"}, // the WAL and the raft snapshot start under other names
		"folders":          {injection: "mkdirat:error=ENOSPC"},
		"modes":            {injection: "fchmod:error=EIO"},
		"modes, backend":   {injection: "fchmod:error=EIO", backend: true},
		"recheck, backend": {injection: "pread64:error=EIO", backend: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := newTarget(t, true)
			stage, err := target.dir.Stage()
			must(t, err)
			before := names(t, filepath.Dir(target.data))
			trace := filepath.Join(t.TempDir(), "trace")
			call, _, _ := strings.Cut(tt.injection, ":")
			args := []string{"-f", "-qq", "-o", trace, "-e", "trace=" + call, "-e", "inject=" + tt.injection}
			if tt.backend {
				args = append(args, "-P", backendOf(stage))
			}
			cmd := exec.CommandContext(t.Context(), strace, append(args, os.Args[0])...)
			cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childVariable+"="+source.path+"\n"+stage.Data+"\n"+stage.WAL)
			output, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 3 || !bytes.HasPrefix(output, []byte("build data dir: ")) {
				t.Errorf("build: %v\n%s", err, output)
			}
			if calls, err := os.ReadFile(trace); err != nil || !bytes.Contains(calls, []byte("INJECTED")) {
				t.Errorf("no fault was injected: %v", err)
			}
			if after := names(t, filepath.Dir(target.data)); !slices.Equal(before, after) {
				t.Errorf("files are now\n%q\nbefore\n%q", after, before)
			}
		})
	}
}
