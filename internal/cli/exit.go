package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/juju"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// The exit codes. docs/contracts/exit-codes.md tells them to people.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitFindings    = 3
	exitNoRepo      = 10
	exitLocked      = 11
	exitNoKey       = 12
	exitInterrupted = 130
	exitTerminated  = 143
)

// SignalError is the cause of a context that ended by a signal. The one of SIGTERM decides the exit code.
type SignalError struct{ Signal os.Signal }

// Error names the signal.
func (e SignalError) Error() string { return e.Signal.String() + " signal received" }

// Is makes it a context.Canceled, as that of every context that was cancelled is.
func (e SignalError) Is(target error) bool { return target == context.Canceled }

// LeavesSignals tells whether the command of these arguments is to have no handler of ours for any signal. etcd takes
// signals itself, but late: a handler before it would swallow what comes meanwhile, and for good where no quorum is. The
// spawn step becomes another program, which could not know of a signal that came before.
func LeavesSignals(args []string) bool {
	return len(args) > 0 && (args[0] == etcdCommand || args[0] == spawnCommand)
}

// ofSignal gives the exit code of a command that a signal cut off, as shells have it: 128 and the number of the signal.
func ofSignal(ctx context.Context, code int) int {
	if cause, is := errors.AsType[SignalError](context.Cause(ctx)); is && code == exitInterrupted && cause.Signal == syscall.SIGTERM {
		return exitTerminated
	}
	return code
}

// errInterrupted means that a person pressed Ctrl-C.
var errInterrupted = errors.New("interrupted")

func exitCode(err error) int {
	var usage usageError
	var found findings
	switch {
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &found):
		return exitFindings
	case errors.Is(err, repository.ErrNoRepository):
		return exitNoRepo
	case errors.Is(err, errNoKey), errors.Is(err, seal.ErrNoIdentity):
		return exitNoKey
	case errors.Is(err, action.ErrLocked):
		return exitLocked
	default:
		return max(juju.ErrorExitCode(err), exitFailed)
	}
}

// findings are errors of a check that was carried out to its end.
type findings struct{ error }

func (f findings) Unwrap() error { return f.error }

// hinted is an error with a command to try next.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// hint gives one line with a command to type next, or nothing.
func (a *app) hint(err error) string {
	var own hinted
	var usage usageError
	var jujuUsage *juju.UsageError
	var late *juju.TimeoutError
	var lost *lostError
	switch {
	case errors.As(err, &own) && own.hint != "":
		return own.hint
	case errors.As(err, &usage), errors.As(err, &jujuUsage):
		if a.ran != nil && a.ran.HasParent() && a.ran.Name() != "help" {
			return a.ran.CommandPath() + " --help"
		}
		return a.Program + " --help"
	case errors.As(err, &late):
		return "the action goes on: " + a.goesOn(late.Dialect, late.Tasks[0])
	case errors.As(err, &lost):
		return fmt.Sprintf("%s start %s, then %s show-action-output %s", a.Program, lost.task.Unit.Application, a.Program, lost.task.ID)
	case errors.Is(err, seal.ErrNoIdentity):
		return a.Program + " list --keys shows which keys each snapshot needs; --identity FILE can be given several times"
	case errors.Is(err, inventory.ErrNotFound):
		return fmt.Sprintf("%s status lists the applications and units%s", a.Program, a.whatExists())
	case a.homeUnusable(err):
		home, _ := a.home() // there is one, or it would not be unusable
		return fmt.Sprintf("the home is %s, and must be a folder that you can write to; HOLDFAST_HOME names another one", home)
	case a.homeFull(err):
		home, _ := a.home()
		return fmt.Sprintf("no space is left in %s, the home; archives that you have copied, data that restores have replaced and %s may go", home, filepath.Join(home, "removed"))
	case errors.Is(err, api.ErrUnreachable):
		return fmt.Sprintf("%s status shows which agents answer; %s start starts those of this machine that do not run, and says what helps the others", a.Program, a.Program)
	case errors.Is(err, action.ErrLocked):
		return "the agent of this unit runs; ask it with run-action, or stop it first"
	}
	return ""
}

// mostNames is how many names a hint lists; where there are more, status is the place.
const mostNames = 12

// whatExists lists the units that could be meant, for the hint of one that is not there.
func (a *app) whatExists() string {
	home, err := a.home()
	if err != nil {
		return ""
	}
	m := &model{}
	if m.inventory, err = inventory.Open(inventoryFile(home)).View(); err != nil {
		return ""
	}
	names, err := m.units("")
	switch {
	case err != nil || len(names) > mostNames:
		return ""
	case len(names) == 0:
		return fmt.Sprintf("; there are none in %s, the home", home)
	}
	return ": " + joinNames(names)
}

// noSpace tells whether a disk was full, here or that of an agent.
func noSpace(err error) bool {
	refused, is := errors.AsType[*api.StatusError](err)
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || is && refused.Code == http.StatusInsufficientStorage
}

// homeFull tells whether the disk of all state was full, as far as that is known.
func (a *app) homeFull(err error) bool {
	if !noSpace(err) {
		return false
	}
	home, homeErr := a.home()
	if homeErr != nil {
		return false
	}
	file, is := errors.AsType[*fs.PathError](err)
	return !is || strings.HasPrefix(file.Path, home+"/")
}

// homeUnusable tells whether an error is that the folder of all state cannot be made, read or written.
func (a *app) homeUnusable(err error) bool {
	file, is := errors.AsType[*fs.PathError](err)
	if !is {
		return false
	}
	home, err := a.home()
	if err != nil {
		return false
	}
	why := file.Op == "mkdir"
	for _, reason := range []error{fs.ErrPermission, syscall.EROFS, syscall.ENOTDIR} {
		why = why || errors.Is(file.Err, reason)
	}
	above := file.Path == home || strings.HasPrefix(home, strings.TrimSuffix(file.Path, "/")+"/")
	return why && (above || strings.HasPrefix(file.Path, inventoryFile(home)))
}
