package unitaction

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/member"
)

const (
	// scratchTimeout bounds the start of a scratch etcd, which reads at most what one member has in its log.
	scratchTimeout = time.Minute
	// scratchStop is how long a scratch etcd may take to end after SIGTERM.
	scratchStop = 10 * time.Second
	// scratchLook is the pause between two looks for its socket.
	scratchLook = 20 * time.Millisecond
)

// scratchEtcd is an etcd of the unit's own program on a data dir that nobody else uses. It founds a new cluster of one from
// what it finds there. It listens on sockets in a folder that only the agent can enter, so it needs neither ports nor
// certificates, and it ends with the agent, however that dies.
type scratchEtcd struct {
	cmd    *exec.Cmd
	ended  <-chan error
	log    string
	folder *os.File // gives the sockets a path that is short enough, whatever the folder's own is
}

// startScratchEtcd starts it and returns when it listens; it serves somewhat later. run is a folder for sockets and log,
// made here. The caller stops it.
func (u *Unit) startScratchEtcd(ctx context.Context, run, dataDir, walDir string) (_ *scratchEtcd, err error) {
	if err := durable.MkdirAll(run, 0o700); err != nil {
		return nil, err
	}
	s := &scratchEtcd{log: filepath.Join(run, "etcd.log")}
	if s.folder, err = os.Open(run); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start etcd in scratch: %w", err), s.folder.Close())
		}
	}()
	args := []string{
		"--name=" + u.Record.Member, "--data-dir=" + dataDir, "--force-new-cluster", "--enable-v2",
		"--listen-client-urls=unix://client:0", "--advertise-client-urls=" + strings.Join(u.Record.ClientURLs, ","),
		"--listen-peer-urls=unix://peer:0", "--initial-advertise-peer-urls=" + u.Record.PeerURL,
		"--initial-cluster=" + u.Record.Member + "=" + u.Record.PeerURL,
		"--logger=zap", "--log-outputs=stderr",
	}
	if walDir != "" {
		args = append(args, "--wal-dir="+walDir)
	}
	output, err := os.OpenFile(s.log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	s.cmd = exec.Command(u.Record.EtcdBinary, args...)
	s.cmd.Dir, s.cmd.Env, s.cmd.Stderr = run, toolEnvironment(), output
	s.ended, err = startChild(s.cmd)
	if err = errors.Join(err, output.Close()); err != nil {
		return nil, err
	}
	if err := s.awaitListening(ctx); err != nil {
		return nil, errors.Join(err, s.kill())
	}
	return s, nil
}

// socket is the path of the client socket; it is one of this process only.
func (s *scratchEtcd) socket() string { return fmt.Sprintf("/proc/self/fd/%d/client:0", s.folder.Fd()) }

// dial connects to it. The caller closes the client.
func (s *scratchEtcd) dial() (*member.Client, error) { return member.Dial("unix://"+s.socket(), nil) }

// unknownKeys stands for a number of keys that cannot be told: the v2 store has users, and wants one of them.
const unknownKeys = -1

// countKeys waits until it serves and counts its v2 keys, if it lets us.
func (s *scratchEtcd) countKeys(ctx context.Context) (int64, error) {
	keys, err := socketV2(s.socket()).countKeys(ctx)
	if errors.Is(err, errV2Login) {
		return unknownKeys, nil
	}
	return keys, err
}

func (s *scratchEtcd) awaitListening(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, scratchTimeout, fmt.Errorf("it did not listen within %s", scratchTimeout))
	defer cancel()
	for {
		connection, err := new(net.Dialer).DialContext(ctx, "unix", s.socket())
		if err == nil {
			return connection.Close()
		}
		select {
		case how := <-s.ended:
			return fmt.Errorf("it ended: %w; it had said: %s", how, s.lastWords())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(scratchLook):
		}
	}
}

// stop ends it and waits until it is gone. When it had ended by itself before, that is an error.
func (s *scratchEtcd) stop() error {
	select {
	case how := <-s.ended:
		return errors.Join(fmt.Errorf("etcd in scratch ended: %w; it had said: %s", how, s.lastWords()), s.folder.Close())
	default:
	}
	err := s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended: // etcd ends by the signal it was given, which tells nothing.
		return errors.Join(err, s.folder.Close())
	case <-time.After(scratchStop):
		return errors.Join(err, s.kill(), s.folder.Close())
	}
}

func (s *scratchEtcd) kill() error {
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	return nil
}

// lastWords is the end of its log, for people.
func (s *scratchEtcd) lastWords() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return lastLine(text)
}

// lastLine gives the last line of a program's output, cut to what a person reads.
func lastLine(output []byte) string {
	lines := bytes.Split(bytes.TrimSpace(output), []byte("\n"))
	const most = 500 // bytes
	line := lines[len(lines)-1]
	return strings.ToValidUTF8(string(line[:min(len(line), most)]), "?")
}

// toolEnvironment is the whole environment of scratch etcds and tools, with more added: variables that begin with ETCD
// are options to them.
func toolEnvironment(more ...string) []string {
	return append([]string{"PATH=/usr/local/bin:/usr/bin:/bin"}, more...)
}

// startChild starts a program that the kernel kills when this one dies. The channel gives once how it ended, nil for exit
// code 0, and is closed then.
func startChild(cmd *exec.Cmd) (<-chan error, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		defer close(ended)
		// The kernel ties the child to the thread that made it: so this thread waits for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}
