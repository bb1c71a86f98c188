package unitaction

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/etcdtest/keyspace"
	"github.com/holdfast-project/holdfast/internal/etcdtest/kubeload"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// TestSnapshot takes an archive apart, and lets the release's own tool and server judge what is inside.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "3.7").serve(t)
	_, err := kubeload.Fill(t.Context(), w.etcd(t), kubeload.New(5, 100))
	must(t, err)
	want, err := keyspace.Read(t.Context(), w.etcd(t))
	must(t, err)
	begun := time.Now()
	results := w.do(t, "snapshot", nil)
	file := get(t, results, "snapshot.path")
	stamp, err := time.Parse("/home/ubuntu/etcd-snapshots/etcd-snapshot-2006-01-02-15.04.05.tar.gz", file)
	if err != nil || stamp.Before(begun.Add(-time.Second).UTC()) || stamp.After(time.Now()) {
		t.Errorf("path %q: %v", file, err)
	}
	packed, err := os.ReadFile(w.host(file))
	must(t, err)
	sum := sha256.Sum256(packed)
	du, err := exec.Command("du", "-h", w.host(file)).Output()
	must(t, err)
	size, _, _ := strings.Cut(string(du), "\t")
	version := etcdtest.Get(t, "3.7").Full
	expected := action.Results{
		"copy": map[string]any{"cmd": "juju scp etcd/0:" + file + " ."},
		"snapshot": map[string]any{
			"path": file, "sha256": hex.EncodeToString(sum[:]), "size": size, "version": "etcdctl version: " + version + "\nAPI version: 3.7",
		},
	}
	if fmt.Sprint(results) != fmt.Sprint(expected) {
		t.Errorf("results %v\nwant    %v", results, expected)
	}
	headers, contents := untar(t, w.host(file))
	if len(headers) != 2 || headers[0].Name != "./" || headers[1].Name != "./db" || headers[0].Mode != 0o700 || headers[1].Mode != 0o600 || headers[1].Uname != "" {
		t.Errorf("entries %+v", headers)
	}
	for path, mode := range map[string]os.FileMode{
		file: 0o600, file + ".sha256": 0o600, file + ".json": 0o600, "/home": 0o700 | os.ModeDir, "/home/ubuntu": 0o700 | os.ModeDir, "/home/ubuntu/etcd-snapshots": 0o700 | os.ModeDir,
	} {
		if info, err := os.Stat(w.host(path)); err != nil || info.Mode() != mode {
			t.Errorf("%q has mode %v: %v", path, info.Mode(), err)
		}
	}
	check := exec.Command("sha256sum", "-c", "--strict", filepath.Base(file)+".sha256")
	check.Dir = filepath.Dir(w.host(file))
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
	w.checkSideFile(t, file, contents["./db"], want.Revision)
	// The release's own tool takes it with its checksum, and its server serves the same.
	db, data := filepath.Join(t.TempDir(), "db"), filepath.Join(t.TempDir(), "data")
	must(t, os.WriteFile(db, contents["./db"], 0o600))
	etcdtest.Get(t, "3.7").Restore(t, db, data, "--name=m1", "--initial-cluster=m1="+w.Record.PeerURL+"0", "--initial-advertise-peer-urls="+w.Record.PeerURL+"0")
	restored := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{DataDir: data})
	got, err := keyspace.Read(t.Context(), restored.Client)
	must(t, err)
	if diff := keyspace.Diff(want, got); diff != "" {
		t.Errorf("it serves something else:\n%s", diff)
	}
	t.Run("taken names", func(t *testing.T) { checkTakenNames(t, w) })
	t.Run("bad parameters", func(t *testing.T) { checkBadSnapshots(t, w) })
	t.Run("cancel", func(t *testing.T) { checkCancel(t, w) })
}

func (w *world) checkSideFile(t *testing.T, file string, db []byte, revision int64) {
	content, err := os.ReadFile(w.host(file + ".json"))
	must(t, err)
	var side archivefile.SideFile
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	must(t, decoder.Decode(&side))
	status, err := w.etcd(t).Status(t.Context(), w.Record.ClientURLs[0])
	must(t, err)
	sum := sha256.Sum256(db[:len(db)-sha256.Size])
	packed, err := os.Stat(w.host(file))
	must(t, err)
	if side.Format != "holdfast-archive/1" || side.Archive != filepath.Base(file) || side.Size != packed.Size() || side.Unit != "etcd/0" || len(side.Task) != 36 ||
		side.KeysVersion != "v3" || side.EtcdVersion != status.Version || side.StorageVersion != "3.7.0" || side.ClusterID != fmt.Sprintf("%x", status.Header.ClusterId) ||
		side.MemberID != fmt.Sprintf("%x", status.Header.MemberId) || side.Revision != revision || side.Records < 100 || side.BackendSize != int64(len(db)) ||
		side.BackendSHA256 != hex.EncodeToString(sum[:]) || side.Completed.Before(side.Started) || side.Started.Location() != time.UTC {
		t.Errorf("side file %s", content)
	}
}

// checkTakenNames puts other files under the names of the next seconds: they stay as they are.
func checkTakenNames(t *testing.T, w *world) {
	folder := w.host("/mnt/x")
	must(t, os.MkdirAll(folder, 0o700))
	taken := map[string]bool{}
	for i := range 3 {
		name := "etcd-snapshot-" + time.Now().UTC().Add(time.Duration(i)*time.Second).Format("2006-01-02-15.04.05") + ".tar.gz"
		taken["/mnt/x/"+name] = true
		must(t, os.WriteFile(filepath.Join(folder, name), []byte("taken"), 0o600))
	}
	file := get(t, w.do(t, "snapshot", map[string]any{"target": "/mnt/x"}), "snapshot.path")
	if taken[file] {
		t.Errorf("the archive has a name that was taken: %q", file)
	}
	for name := range taken {
		if content, err := os.ReadFile(w.host(name)); err != nil || string(content) != "taken" {
			t.Errorf("%q holds %.10q: %v", name, content, err)
		}
	}
	if stamp, err := time.Parse("/mnt/x/etcd-snapshot-2006-01-02-15.04.05.tar.gz", file); err != nil || stamp.After(time.Now()) {
		t.Errorf("%q is of a second that has not come: %v", file, err)
	}
}

// checkBadSnapshots wants a reason, and nothing left.
func checkBadSnapshots(t *testing.T, w *world) {
	outside := t.TempDir()
	must(t, os.Symlink(outside, w.host("/mnt/out")))
	must(t, os.WriteFile(w.host("/mnt/file"), nil, 0o600))
	before := fmt.Sprint(w.files(t))
	for name, tt := range map[string]struct {
		params map[string]any
		want   string
	}{
		"keys-version": {map[string]any{"keys-version": "v9"}, "^keys-version must be either v2 or v3$"},
		"no v2 store":  {map[string]any{"keys-version": "v2"}, "v2"},
		"relative":     {map[string]any{"target": "backups"}, `^target must be an absolute path, given "backups"$`},
		"rate":         {map[string]any{"max-rate": "fast"}, `^max-rate must be a number of bytes per second .* given "fast"$`},
		"a file":       {map[string]any{"target": "/mnt/file"}, "(file exists|not a directory)"},
		"below a file": {map[string]any{"target": "/mnt/file/x"}, "not a directory"},
		"a link out":   {map[string]any{"target": "/mnt/out"}, "(escapes|not a directory|file exists)"},
		"through it":   {map[string]any{"target": "/mnt/out/x"}, "escapes"},
		"a long name":  {map[string]any{"target": "/" + strings.Repeat("x", 300)}, "name too long"},
	} {
		call, err := w.run(t.Context(), "snapshot", tt.params)
		if err == nil || !regexp.MustCompile(tt.want).MatchString(err.Error()) {
			t.Errorf("%s: %v", name, err)
		}
		if call == nil || len(call.Results()) != 0 {
			t.Errorf("%s: results", name)
		}
	}
	if after := fmt.Sprint(w.files(t)); after != before {
		t.Errorf("files before\n%s\nafter\n%s", before, after)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside of the unit: %v, %v", entries, err)
	}
}

func checkCancel(t *testing.T, w *world) {
	before := fmt.Sprint(w.files(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := w.run(ctx, "snapshot", map[string]any{"max-rate": "10kB"})
		done <- err
	}()
	deadline := time.Now().Add(time.Minute)
	for parts := 0; parts == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		found, _ := filepath.Glob(w.host("/home/ubuntu/etcd-snapshots/.*.part"))
		parts = len(found)
	}
	cancel(action.ErrCancelled)
	if err := <-done; !errors.Is(err, action.ErrCancelled) || !strings.HasSuffix(err.Error(), "; no archive was left") {
		t.Error(err)
	}
	if after := fmt.Sprint(w.files(t)); after != before {
		t.Errorf("files before\n%s\nafter\n%s", before, after)
	}
}

// fakeMember answers as an etcd that sends what the test wants.
type fakeMember struct {
	pb.UnimplementedMaintenanceServer
	stream []*pb.SnapshotResponse
}

func (f *fakeMember) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 3}, Version: "3.7.3"}, nil
}

func (f *fakeMember) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	for _, reply := range f.stream {
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
	return nil
}

// TestBadStreams lets a member send a stream that is no whole backend. No archive may come of it.
func TestBadStreams(t *testing.T) {
	t.Parallel()
	real := newWorld(t, "3.7").serve(t)
	real.put(t, "key", "value")
	_, contents := untar(t, real.host(get(t, real.do(t, "snapshot", nil), "snapshot.path")))
	whole := contents["./db"]
	must(t, real.child.Hold(t.Context()))
	flip := func(at int) []byte {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1
		return damaged
	}
	resummed := func(data []byte) []byte { // with a checksum that fits
		data = data[:len(data)-sha256.Size]
		sum := sha256.Sum256(data)
		return append(bytes.Clone(data), sum[:]...)
	}
	w := newWorld(t, "3.7")
	fake := &fakeMember{}
	listener, err := net.Listen("tcp", w.address(t))
	must(t, err)
	server := grpc.NewServer()
	pb.RegisterMaintenanceServer(server, fake)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		must(t, <-served)
	}()
	// announce sends data and says that it is as long as the real one.
	announce := func(data []byte) []*pb.SnapshotResponse {
		rest := len(whole) - sha256.Size - 4096
		return []*pb.SnapshotResponse{{Blob: data[:4096], RemainingBytes: uint64(rest)}, {Blob: data[4096:]}}
	}
	for name, tt := range map[string]struct {
		stream []*pb.SnapshotResponse
		want   string // "" means that it is taken
	}{
		"the real one":      {announce(whole), ""},
		"cut":               {announce(whole[:len(whole)-5000]), "it ended 5000 bytes early"},
		"without a trailer": {announce(whole[:len(whole)-sha256.Size]), "it ended 32 bytes early"},
		"no trailer at all": {[]*pb.SnapshotResponse{
			{Blob: whole[:4096], RemainingBytes: uint64(len(whole) - 2*sha256.Size - 4096)}, {Blob: whole[4096 : len(whole)-sha256.Size]},
		}, "check snapshot stream: it has no checksum at its end"},
		"with more":          {announce(append(bytes.Clone(whole), 0)), "1 bytes more than it announced"},
		"wrong trailer":      {announce(flip(len(whole) - 1)), "check snapshot stream: "},
		"wrong byte":         {announce(flip(5000)), "check snapshot stream: "},
		"pages that are bad": {announce(resummed(append(bytes.Clone(whole[:2*4096]), make([]byte, len(whole)-2*4096)...))), "check snapshot stream: "},
		"no backend":         {announce(resummed(bytes.Repeat([]byte("x"), len(whole)))), "not an etcd backend file"},
		"an absurd size":     {[]*pb.SnapshotResponse{{Blob: whole, RemainingBytes: 1 << 60}}, "member announces"},
		"nothing":            {nil, "member sent nothing at all"},
	} {
		fake.stream = tt.stream
		before := len(w.files(t))
		call, err := w.run(t.Context(), "snapshot", map[string]any{"max-rate": "0"})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if after := len(w.files(t)); err != nil && (after != before || len(call.Results()) != 0) || err == nil && after != before+3 {
			t.Errorf("%s: %d files before, now %q; results %v", name, before, w.files(t), call.Results())
		}
	}
}

func TestSnapshotOfNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "3.7")
	begun := time.Now()
	if _, err := w.run(t.Context(), "snapshot", nil); err == nil || !strings.Contains(err.Error(), w.Record.ClientURLs[0]) || time.Since(begun) > 2*statusTimeout {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	if got := w.files(t); len(got) != 0 {
		t.Errorf("files %q", got)
	}
}

// TestRecoverSnapshot removes what a run that was cut off has left of its own, and nothing else.
func TestRecoverSnapshot(t *testing.T) {
	w := newWorld(t, "3.7")
	snapshot := &snapshotAction{w.Unit}
	params, err := snapshot.Spec().Check(map[string]any{"target": "/mnt"})
	must(t, err)
	call := &action.Call{TaskID: "3d6a505e-07d7-4697-8471-60156f87b1b4", Unit: w.Name, Params: params}
	must(t, os.MkdirAll(w.host("/mnt"), 0o700))
	const own, other = "/mnt/.etcd-snapshot-3d6a505e-07d7-4697-8471-60156f87b1b4.part", "/mnt/.etcd-snapshot-11111111-07d7-4697-8471-60156f87b1b4.part"
	for _, file := range []string{own, own + ".sha256", own + ".json", other, "/mnt/etcd-snapshot-2018-09-26-18.04.02.tar.gz"} {
		must(t, os.WriteFile(w.host(file), nil, 0o600))
	}
	for range 2 { // it may itself be cut off
		outcome, err := snapshot.Recover(t.Context(), call)
		if err != nil || outcome != "unfinished files are removed" {
			t.Errorf("%q, %v", outcome, err)
		}
		if got := w.files(t); fmt.Sprint(got) != fmt.Sprint([]string{other, "/mnt/etcd-snapshot-2018-09-26-18.04.02.tar.gz"}) {
			t.Errorf("files %q", got)
		}
	}
	call.Params["target"] = "relative"
	if outcome, err := snapshot.Recover(t.Context(), call); err != nil || outcome != "" {
		t.Errorf("of a target that was refused: %q, %v", outcome, err)
	}
}

// TestCopyCommand has a shell read the line.
func TestCopyCommand(t *testing.T) {
	for _, path := range []string{
		"/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz", "/mnt/a b/x", `/mnt/it's/"x"`, "/mnt/$HOME/`id`/\\x", "/mnt/*?[a]{b,c}~!#&;|<>()", "/mnt/ä\n/x",
	} {
		command := copyCommand("printf '%s\\n' #; juju", unit.Name{Application: "etcd", Number: 3}, path)
		command = strings.Replace(command, "printf '%s\\n' #; juju", "printf '%s\\n'", 1)
		out, err := exec.Command("sh", "-c", command).Output()
		if want := "scp\netcd/3:" + path + "\n.\n"; err != nil || string(out) != want {
			t.Errorf("the shell reads %q of %s, want %q: %v", out, command, want, err)
		}
	}
	if got := copyCommand("juju", unit.Name{Application: "etcd"}, "/home/ubuntu/x.tar.gz"); got != "juju scp etcd/0:/home/ubuntu/x.tar.gz ." {
		t.Errorf("plain paths are quoted: %s", got)
	}
}

func TestMinorOf(t *testing.T) {
	for version, want := range map[string]string{"3.7.3": "3.7", "3.4.23": "3.4", "3.8.0-alpha.0": "3.8", "10.20": "10.20", "weird": "weird", "": ""} {
		if got := minorOf(version); got != want {
			t.Errorf("%q: %q", version, got)
		}
	}
}

// TestProgress follows a transfer of a minute by a clock of its own.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		call := &action.Call{Log: func(line string) { lines = append(lines, line) }}
		p := newProgress(call, 60_000_000)
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			p.add(100_000)
		}
		if len(lines) != 30 || lines[0] != "2.0 MB of 60 MB, 1.0 MB/s, 58s left" || lines[29] != "60 MB of 60 MB, 1.0 MB/s, 0s left" {
			t.Errorf("%d lines: %q", len(lines), lines)
		}
		lines = nil
		p = newProgress(call, 10)
		time.Sleep(progressStep - time.Millisecond)
		if p.add(10); len(lines) != 0 {
			t.Errorf("a short transfer says %q", lines)
		}
	})
}
