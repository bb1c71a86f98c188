package service

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// statusRunning is what the spawn step says when another server has the lock. Anything else it says is an error's
	// text, and silence means that it has become the server.
	statusRunning = "running"
	// maxLogBytes is the size above which a log is set aside before a start: some days of an etcd's talk.
	maxLogBytes = 16 << 20
)

// SpawnMain is the step between an agent and its server, run in a process of its own: it takes the lock, records itself,
// points its output at the log and becomes the server with the environment environ, so it returns only an error. The
// command line is that of Start:
//
//	--lock FILE --pid-file FILE --log FILE [--digest TEXT] [--status-fd N] -- PROGRAM ARGUMENT...
func SpawnMain(args, environ []string) error {
	flags := flag.NewFlagSet("spawn", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	lock := flags.String("lock", "", "file to lock as long as the server runs")
	pidFile := flags.String("pid-file", "", "file to record the process in")
	log := flags.String("log", "", "file for the server's output")
	digest := flags.String("digest", "", "text to record with the process")
	statusFD := flags.Int("status-fd", 0, "file descriptor to say on what went wrong")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("spawn: %w", err)
	}
	if *lock == "" || *pidFile == "" || *log == "" || flags.NArg() == 0 {
		return errors.New("spawn: want --lock, --pid-file, --log and a program")
	}
	// Also the status pipe, whose end tells the agent that the server runs.
	if err := DisinheritFiles(); err != nil {
		return fmt.Errorf("spawn: %w", err)
	}
	err := spawn(*lock, *pidFile, *digest, *log, flags.Args(), environ)
	if *statusFD != 0 {
		text := err.Error()
		if errors.Is(err, ErrRunning) {
			text = statusRunning
		}
		// If the agent is gone, nobody is there to be told.
		_, _ = syscall.Write(*statusFD, []byte(text))
	}
	return fmt.Errorf("spawn: %w", err)
}

// DisinheritFiles keeps the files that this process was given, beyond stdin, stdout and stderr, from the programs that it
// starts. An agent that was itself started as a Child calls it first: otherwise what it starts would share its lock, and
// the lock would be held after its end.
func DisinheritFiles() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// spawn does not return unless something is wrong. The lock then ends with this process.
func spawn(lock, pidFile, digest, log string, argv, environ []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	if err := takeLock(lock); err != nil {
		return err
	}
	started, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	p := Process{PID: os.Getpid(), StartTime: started, Digest: digest}
	if err := p.writePIDFile(pidFile); err != nil {
		return err
	}
	if err := redirect(log); err != nil {
		return err
	}
	syscall.Umask(0o077) // What the server makes holds its users' secrets.
	if err := syscall.Exec(program, argv, environ); err != nil {
		return fmt.Errorf("execute %q: %w", program, err)
	}
	return nil
}

// redirect points stdin at nothing and stdout and stderr at the log.
func redirect(log string) error {
	info, err := os.Stat(log)
	if err == nil && info.Size() > maxLogBytes {
		err = os.Rename(log, log+".1")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set log aside: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	for fd, from := range []*os.File{null, out, out} {
		if err := unix.Dup2(int(from.Fd()), fd); err != nil {
			return fmt.Errorf("redirect output: %w", err)
		}
	}
	return nil
}
