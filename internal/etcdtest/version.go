// Package etcdtest runs real etcd servers of every minor version that Holdfast supports, and those versions' own
// tools, on loopback. It is for tests and benches only; packages keyspace and kubeload below it compare and fill what
// runs here.
//
// Servers are child processes with a clean environment. They end with the test, and also when the test process dies.
// A Server is not safe for concurrent use, its Client is. Linux only: reserved ports and the end of children with
// their parent rest on it.
package etcdtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// Version is one etcd release on this machine.
type Version struct {
	// Minor is "3.4" and Full "3.4.23".
	Minor, Full string
	// Server and Ctl are the paths of etcd and etcdctl. Utl is that of etcdutl, "" for 3.4, which has none.
	Server, Ctl, Utl string
}

// String gives the minor version: it names subtests.
func (v Version) String() string { return v.Minor }

// minors are the supported minor versions, oldest first.
func minors() []string { return []string{"3.4", "3.5", "3.6", "3.7"} }

// Versions gives every supported version, oldest first. It fails the test when one is missing.
func Versions(t testing.TB) []Version {
	t.Helper()
	versions, err := FindVersions(".")
	if err != nil {
		t.Fatal(err)
	}
	return versions
}

// Get gives the version of one minor, such as "3.6". It fails the test when it is missing.
func Get(t testing.TB, minor string) Version {
	t.Helper()
	for _, v := range Versions(t) {
		if v.Minor == minor {
			return v
		}
	}
	t.Fatalf("no etcd %q: want one of %q", minor, minors())
	return Version{}
}

// FindVersions is Versions for programs that are no tests. It looks in the module that dir is in.
func FindVersions(dir string) ([]Version, error) {
	root, err := moduleRoot(dir)
	if err != nil {
		return nil, err
	}
	var versions []Version
	for _, minor := range minors() {
		full, err := pinned(filepath.Join(root, "test", "etcd", "v"+minor))
		if err != nil {
			return nil, fmt.Errorf("find etcd %s: %w", minor, err)
		}
		folder := filepath.Join(root, ".cache", "etcd", full)
		v := Version{Minor: minor, Full: full, Server: filepath.Join(folder, "etcd"), Ctl: filepath.Join(folder, "etcdctl")}
		needed := []string{v.Server, v.Ctl}
		if minor != "3.4" {
			v.Utl = filepath.Join(folder, "etcdutl")
			needed = append(needed, v.Utl)
		}
		for _, path := range needed {
			if _, err := os.Stat(path); err != nil {
				return nil, fmt.Errorf("find etcd %s: %w; run: make etcd", full, err)
			}
		}
		versions = append(versions, v)
	}
	return versions, nil
}

var serverRequirement = regexp.MustCompile(`(?m)go\.etcd\.io/etcd/server/v3 v(\S+)`)

// pinned reads which release a folder of test/etcd asks for: a version of a Debian package, or a required module.
func pinned(folder string) (string, error) {
	text, err := os.ReadFile(filepath.Join(folder, "VERSION"))
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	path := filepath.Join(folder, "go.mod")
	if text, err = os.ReadFile(path); err != nil {
		return "", err
	}
	match := serverRequirement.FindSubmatch(text)
	if match == nil {
		return "", fmt.Errorf("%q requires no etcd server", path)
	}
	return string(match[1]), nil
}

// moduleRoot walks up from dir to the folder with go.mod.
func moduleRoot(dir string) (string, error) {
	start, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := start; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("find module root: no go.mod above %q", start)
		}
	}
}

// CtlCommand is a run of this version's etcdctl. env is added to a clean environment.
func (v Version) CtlCommand(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, v.Ctl, args...)
	cmd.Env = cleanEnv(env...)
	if v.Minor == "3.4" { // its default is the API of etcd 2; later versions know only 3 and warn of the variable
		cmd.Env = append(cmd.Env, "ETCDCTL_API=3")
	}
	return cmd
}

// UtlCommand is a run of this version's etcdutl, or of its etcdctl when it has no etcdutl.
func (v Version) UtlCommand(ctx context.Context, args ...string) *exec.Cmd {
	if v.Utl == "" {
		return v.CtlCommand(ctx, nil, args...)
	}
	cmd := exec.CommandContext(ctx, v.Utl, args...)
	cmd.Env = cleanEnv()
	return cmd
}

// RestoreCommand is this version's own restore of the snapshot file db into the new data dir, with its hash check.
// args are added, for example --name.
func (v Version) RestoreCommand(ctx context.Context, db, dataDir string, args ...string) *exec.Cmd {
	return v.UtlCommand(ctx, append([]string{"snapshot", "restore", db, "--data-dir=" + dataDir}, args...)...)
}

// Restore runs RestoreCommand and fails the test, with the tool's words, when it fails.
func (v Version) Restore(t testing.TB, db, dataDir string, args ...string) {
	t.Helper()
	if out, err := v.RestoreCommand(t.Context(), db, dataDir, args...).CombinedOutput(); err != nil {
		t.Fatalf("etcd %s restores %q: %v\n%s", v.Full, db, err, out)
	}
}

// cleanEnv is the environment of servers and tools: nothing of the caller's ETCD_ and ETCDCTL_ settings gets in.
func cleanEnv(more ...string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}
	if runtime.GOARCH != "amd64" { // etcd 3.4 starts on other machines only when told so
		env = append(env, "ETCD_UNSUPPORTED_ARCH="+runtime.GOARCH)
	}
	return append(env, more...)
}
