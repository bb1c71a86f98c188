package unitaction

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/unit"
)

func TestUpkeep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "3.7").serve(t)
	etcd := w.etcd(t)
	for range 20 { // revisions 2 to 21
		w.put(t, "key", strings.Repeat("x", 10_000))
	}
	output := func(name string, params map[string]any) string { return get(t, w.do(t, name, params), "output") }
	status, err := etcd.Status(t.Context(), w.Record.ClientURLs[0])
	// etcd writes its backend every tenth of a second.
	for end := time.Now().Add(time.Minute); err == nil && status.DbSize < 20*10_000 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		status, err = etcd.Status(t.Context(), w.Record.ClientURLs[0])
	}
	must(t, err)
	id := status.Header.MemberId
	if got := output("health", nil); got != fmt.Sprintf("member %x is healthy: got healthy result from %s\ncluster is healthy", id, w.Record.ClientURLs[0]) {
		t.Errorf("health %q", got)
	}

	if got := output("compact", map[string]any{"revision": int64(5)}); got != "compacted revision 5" {
		t.Errorf("compact %q", got)
	}
	for revision, want := range map[int64]error{4: rpctypes.ErrCompacted, 6: nil} {
		if _, err := etcd.Get(t.Context(), "key", clientv3.WithRev(revision)); !errors.Is(err, want) {
			t.Errorf("a read of revision %d: %v", revision, err)
		}
	}
	for revision, want := range map[int64]string{-1: "revision must not be negative, given -1", 5: "has been compacted", 1000: "future revision", 1<<63 - 1: "compact to revision 9223372036854775807 at "} {
		if _, err := w.run(t.Context(), "compact", map[string]any{"revision": revision}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("compact to %d: %v", revision, err)
		}
	}
	if got := output("compact", map[string]any{"physical": true}); got != "compacted revision 21" {
		t.Errorf("compact to the latest: %q", got)
	}
	if got := output("defrag", nil); got != "Finished defragmenting etcd member["+w.Record.ClientURLs[0]+"]" {
		t.Errorf("defrag %q", got)
	}
	if after, err := etcd.Status(t.Context(), w.Record.ClientURLs[0]); err != nil || after.DbSize >= status.DbSize {
		t.Errorf("size %d before, %d after: %v", status.DbSize, after.DbSize, err)
	}

	if got := output("alarm-list", nil); got != "" {
		t.Errorf("alarms %q", got)
	}
	_, err = pb.NewMaintenanceClient(etcd.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
	must(t, err)
	line := fmt.Sprintf("memberID:%d alarm:NOSPACE", id)
	if list, disarmed, left := output("alarm-list", nil), output("alarm-disarm", nil), output("alarm-list", nil); list != line || disarmed != line || left != "" {
		t.Errorf("alarms %q, disarmed %q, left %q", list, disarmed, left)
	}

	_, err = etcd.MemberAddAsLearner(t.Context(), []string{"http://127.0.0.1:1"})
	must(t, err)
	call, err := w.run(t.Context(), "health", nil)
	report, _ := call.Results().Get("output")
	if err == nil || err.Error() != "cluster is degraded" || !strings.Contains(report, "is unreachable: no available published client urls\n") || !strings.HasSuffix(report, "\ncluster is degraded") {
		t.Errorf("with a member that never started: %v\n%s", err, report)
	}
	t.Run("nobody there", func(t *testing.T) { checkNobodyThere(t, w) })
}

// checkNobodyThere stops the etcd and then lets it hang.
func checkNobodyThere(t *testing.T, w *world) {
	actions := map[string]string{
		"compact": "determine latest revision for compaction: ", "defrag": "read status at ", "alarm-list": "read status at ", "alarm-disarm": "read status at ", "health": "list members at ",
	}
	process, running, err := w.child.Running(t.Context())
	if err != nil || !running {
		t.Fatalf("etcd runs %v: %v", running, err)
	}
	must(t, syscall.Kill(process.PID, syscall.SIGSTOP))
	var group sync.WaitGroup
	for name, want := range actions {
		group.Go(func() {
			begun := time.Now()
			_, err := w.run(t.Context(), name, nil)
			if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "no answer in time") || time.Since(begun) > 3*statusTimeout {
				t.Errorf("%s of a hung member, after %s: %v", name, time.Since(begun), err)
			}
		})
	}
	group.Go(func() {
		// The guard of a restore waits as long, and refuses.
		if err := w.guardOneUnit(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "restore refused: etcd runs and does not say who its members are: list members at "+w.Record.ClientURLs[0]) {
			t.Errorf("the guard of a hung member: %v", err)
		}
	})
	group.Wait()
	must(t, syscall.Kill(process.PID, syscall.SIGCONT))
	must(t, w.child.Hold(t.Context()))
	for name, want := range actions {
		begun := time.Now()
		call, err := w.run(t.Context(), name, nil)
		if err == nil || !strings.HasPrefix(err.Error(), want) || time.Since(begun) > statusTimeout/2 {
			t.Errorf("%s after %s: %v", name, time.Since(begun), err)
		}
		if report, _ := call.Results().Get("output"); name == "health" && report != "cluster may be unhealthy: failed to list members" {
			t.Errorf("health %q", report)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "3.7")
	dir := t.TempDir()
	w.Record.TLS = unit.TLSFiles{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	for _, file := range []string{"ca", "cert", "key"} {
		must(t, os.WriteFile(filepath.Join(dir, file), []byte("the "+file), 0o600))
	}
	for range 2 { // the second replaces the first
		if results := w.do(t, "package-client-credentials", nil); len(results) != 0 {
			t.Errorf("results %v", results)
		}
	}
	file := w.host("/home/ubuntu/etcd_credentials.tar.gz")
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
	headers, contents := untar(t, file)
	var list []string
	for _, header := range headers {
		list = append(list, fmt.Sprintf("%s %o", header.Name, header.Mode))
	}
	if want := "[etcd_credentials/ 700 etcd_credentials/README.txt 600 etcd_credentials/client.crt 600 etcd_credentials/client.key 600 etcd_credentials/ca.crt 600]"; fmt.Sprint(list) != want {
		t.Errorf("entries %v", list)
	}
	for name, want := range map[string]string{"client.crt": "the cert", "client.key": "the key", "ca.crt": "the ca"} {
		if got := string(contents["etcd_credentials/"+name]); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if readme := string(contents["etcd_credentials/README.txt"]); !strings.Contains(readme, "ETCDCTL_ENDPOINTS="+w.Record.ClientURLs[0]+"\n") || regexp.MustCompile("%!").MatchString(readme) {
		t.Errorf("read me:\n%s", readme)
	}
	before, err := os.ReadFile(file)
	must(t, err)
	must(t, os.Remove(w.Record.TLS.Key))
	if _, err := w.run(t.Context(), "package-client-credentials", nil); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "read client credentials: ") {
		t.Errorf("without the key: %v", err)
	}
	call, err := w.run(t.Context(), "package-client-credentials", nil)
	if err == nil {
		t.Error("no error")
	}
	must(t, os.WriteFile(w.host("/home/ubuntu/."+call.TaskID+".part"), []byte("half"), 0o600))
	if outcome, err := (&clientCredentials{w.Unit}).Recover(t.Context(), call); err != nil || outcome != "" {
		t.Errorf("recover: %q, %v", outcome, err)
	}
	after, err := os.ReadFile(file)
	if got := w.files(t); err != nil || !bytes.Equal(before, after) || len(got) != 1 {
		t.Errorf("files %q: %v", got, err)
	}
}
