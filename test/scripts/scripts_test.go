package scripts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/inventory"
)

// rootVariable names the folder of a whole run: for the tests, and for the reaper that looks after them.
const (
	rootVariable   = "HOLDFAST_SCRIPTS_ROOT"
	reaperVariable = "HOLDFAST_SCRIPTS_REAPER"
)

func TestMain(m *testing.M) {
	if os.Getenv(reaperVariable) != "" {
		os.Exit(reap(os.Getenv(rootVariable)))
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run builds the binary once, runs the tests and sees to it that nothing is left.
func run(m *testing.M) (code int, err error) {
	root, err := os.MkdirTemp("", "holdfast-scripts-")
	if err != nil {
		return 1, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := os.Setenv(rootVariable, root); err != nil {
		return 1, err
	}
	if err := build(filepath.Join(root, "bin")); err != nil {
		return 1, err
	}
	dismiss, err := startReaper()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, dismiss()) }()
	code = m.Run()
	return code, killLeftovers(root)
}

// build makes the folder that comes first in the scripts' PATH: holdfast, the link juju to it, and etcd's own tools.
func build(bin string) error {
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return err
	}
	command := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(bin, "holdfast"), "./cmd/holdfast")
	command.Dir = filepath.Join("..", "..")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	versions, err := etcdtest.FindVersions(".")
	if err != nil {
		return err
	}
	newest := versions[len(versions)-1]
	for link, target := range map[string]string{"juju": "holdfast", "etcdctl": newest.Ctl, "etcdutl": newest.Utl} {
		if err := os.Symlink(target, filepath.Join(bin, link)); err != nil {
			return err
		}
	}
	return nil
}

func TestScripts(t *testing.T) {
	versions := etcdtest.Versions(t)
	places := make(chan struct{}, mostAtOnce)
	testscript.Run(t, testscript.Params{
		Dir:                ".",
		Cmds:               commands(),
		RequireUniqueNames: true,
		WorkdirRoot:        os.Getenv(rootVariable),
		Setup: func(env *testscript.Env) error {
			places <- struct{}{}
			s := &script{work: env.WorkDir, home: filepath.Join(env.WorkDir, "home")}
			env.Values[scriptKey{}] = s
			env.Defer(func() {
				defer func() { <-places }()
				if err := s.cleanUp(); err != nil {
					env.T().Fatal("clean up: ", err)
				}
			})
			bin := filepath.Join(os.Getenv(rootVariable), "bin")
			env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			env.Setenv("BIN", bin)
			env.Setenv("HOLDFAST_HOME", s.home)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("UNITS", filepath.Join(s.home, "units"))
			for _, v := range versions {
				env.Setenv("ETCD_"+strings.ReplaceAll(v.Minor, ".", "_"), v.Server)
			}
			s.environment = append([]string{}, env.Vars...)
			return nil
		},
	})
}

// mostAtOnce is how many scripts run at a time: each has up to six processes, and waits more than it works.
const mostAtOnce = 3

// script is what the commands of one script share.
type script struct {
	work, home  string
	environment []string
	started     map[string]*background
	saved       map[string]saved
}

type scriptKey struct{}

func scriptOf(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

// cleanUp destroys every application of the script's home. What then still runs is a failure, and is killed.
func (s *script) cleanUp() error {
	for _, b := range s.started {
		b.end()
	}
	if err := wake(s.work); err != nil {
		return err
	}
	var failed []error
	inv, err := inventory.Open(filepath.Join(s.home, "inventory.yaml")).View()
	if err != nil {
		failed = append(failed, err)
	} else {
		for _, application := range inv.Names() {
			failed = append(failed, s.destroy(application))
		}
	}
	failed = append(failed, killLeftovers(s.work))
	if errors.Join(failed...) == nil {
		failed = append(failed, os.RemoveAll(s.work))
	}
	return errors.Join(failed...)
}

func (s *script) destroy(application string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(os.Getenv(rootVariable), "bin", "holdfast"), "destroy", application, "--yes")
	command.Env = s.environment
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("destroy %q: %w\n%s", application, err, out)
	}
	return nil
}
