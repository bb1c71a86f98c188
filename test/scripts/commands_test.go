package scripts

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what scripts can say beside the commands of testscript.
//
//	[!] juju ARG...               run it; it must exit 0, with ! it must exit 1
//	[!] holdfast ARG...           the same by its own name
//	exits CODE PROGRAM ARG...     it must exit with CODE
//	[!] within TIME PROGRAM ARG...  as juju, and it must not take longer
//	fast TIME PROGRAM ARG...      one of five runs must be that fast: the machine may be busy with other tests
//	waitfor PATTERN PROGRAM ARG...  run it again and again until its output matches
//	matches FILE TEMPLATE         FILE is TEMPLATE, where {{uuid}}, {{time}} and such stand for what changes
//	jsonget VAR FILE KEY...       set VAR to what is at the keys in a JSON file
//	equal A B                     the words are the same; with ! they differ
//	like WORD PATTERN             the whole word matches
//	start NAME PROGRAM ARG...     run it in the background; signal NAME SIGNAL; finish NAME CODE waits for its end
//
//	pid VAR UNIT agent|etcd       the process id
//	freeze, thaw, killproc UNIT agent|etcd   SIGSTOP, SIGCONT, SIGKILL
//	gone PID                      the process ends within seconds
//	etcdstate UNIT                print etcd's process, membership, revision, and its configuration's age
//	fingerprint UNIT              the same and a sum of its whole data dir
//	tidy UNIT...                  no unfinished file is on the units
//	fill APP OBJECTS              write what looks like a Kubernetes cluster
//	save NAME APP, [!] compare NAME APP   keep the whole keyspace; compare it with what an application, or one unit, has now
//	isolate APP, mount UNIT PATH OPTIONS  see disk_test.go
//	flip FILE, zero FILE, badtar KIND FILE, pack FILE DB   see archives_test.go
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"juju":        cmdProgram("juju"),
		"holdfast":    cmdProgram("holdfast"),
		"exits":       cmdExits,
		"within":      cmdWithin,
		"fast":        cmdFast,
		"waitfor":     cmdWaitFor,
		"matches":     cmdMatches,
		"jsonget":     cmdJSONGet,
		"equal":       cmdEqual,
		"like":        cmdLike,
		"start":       cmdStart,
		"signal":      cmdSignal,
		"finish":      cmdFinish,
		"pid":         cmdPID,
		"freeze":      cmdSendSignal(syscall.SIGSTOP),
		"thaw":        cmdSendSignal(syscall.SIGCONT),
		"killproc":    cmdSendSignal(syscall.SIGKILL),
		"gone":        cmdGone,
		"etcdstate":   cmdState(false),
		"fingerprint": cmdState(true),
		"tidy":        cmdTidy,
		"fill":        cmdFill,
		"save":        cmdSave,
		"compare":     cmdCompare,
		"isolate":     cmdIsolate,
		"mount":       cmdMount,
		"flip":        cmdFlip,
		"zero":        cmdZero,
		"badtar":      cmdBadTar,
		"pack":        cmdPack,
	}
}

// commandTime is how long a command may take before it counts as hung. The longest wait for units to become healthy.
const commandTime = "150"

// runProgram runs a program and gives its exit code. Output goes to the script's stdout and stderr.
func runProgram(ts *testscript.TestScript, words []string) int {
	// timeout is of coreutils; in the foreground it leaves the terminal and signals alone.
	err := ts.Exec("timeout", append([]string{"--foreground", "-k", "5", commandTime}, words...)...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	ts.Check(err)
	return -1
}

func wantCode(ts *testscript.TestScript, want int, words []string) {
	if got := runProgram(ts, words); got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(words, " "), got, want)
	}
}

func expected(neg bool) int {
	if neg {
		return 1
	}
	return 0
}

func cmdProgram(name string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		wantCode(ts, expected(neg), append([]string{name}, args...))
	}
}

func need(ts *testscript.TestScript, neg bool, args []string, least int, usage string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "exits CODE PROGRAM ARG...")
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	wantCode(ts, code, args[1:])
}

func cmdWithin(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, false, args, 2, "within TIME PROGRAM ARG...")
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	begun := time.Now()
	wantCode(ts, expected(neg), args[1:])
	if took := time.Since(begun); took > limit {
		ts.Fatalf("%s took %s, want at most %s", strings.Join(args[1:], " "), took, limit)
	}
}

func cmdFast(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "fast TIME PROGRAM ARG...")
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	var took time.Duration
	for range 5 {
		begun := time.Now()
		wantCode(ts, 0, args[1:])
		if took = time.Since(begun); took <= limit {
			return
		}
	}
	ts.Fatalf("%s took %s, want at most %s", strings.Join(args[1:], " "), took, limit)
}

// patience is how long scripts wait for what is to come.
const patience = time.Minute

func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "waitfor PATTERN PROGRAM ARG...")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		runProgram(ts, args[1:])
		if pattern.MatchString(ts.ReadFile("stdout") + ts.ReadFile("stderr")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s never said %q in %s", strings.Join(args[1:], " "), args[0], patience)
		}
	}
}

// placeholders are the parts of an output that differ from run to run.
var placeholders = map[string]string{
	"uuid":    `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`,
	"when":    `\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`,
	"time":    `\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC`,
	"stamp":   `\d{4}-\d\d-\d\d-\d\d\.\d\d\.\d\d`,
	"sha256":  `[0-9a-f]{64}`,
	"id":      `[0-9a-f]{8,16}`,
	"number":  `\d+`,
	"port":    `\d{5}`,
	"version": `\d+\.\d+\.\d+`,
	"minor":   `\d+\.\d+`,
	"size":    `\d+(?:\.\d)?[KMG]?`,
	"path":    `/[^\n']+`,
	"unit":    `[a-z]+/\d\*? *`,
	"text":    `[^\n]+`,
}

func cmdMatches(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "matches FILE TEMPLATE")
	template := ts.ReadFile(args[1])
	pattern := regexp.QuoteMeta(template)
	for name, expression := range placeholders {
		pattern = strings.ReplaceAll(pattern, `\{\{`+name+`\}\}`, expression)
	}
	if strings.Contains(pattern, `\{\{`) {
		ts.Fatalf("%s has an unknown placeholder", args[1])
	}
	if !regexp.MustCompile(`\A` + pattern + `\z`).MatchString(ts.ReadFile(args[0])) {
		ts.Fatalf("%s is not as %s has it:\n%s", args[0], args[1], template)
	}
}

func cmdJSONGet(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "jsonget VAR FILE KEY...")
	var value any
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile(args[1])))
	decoder.UseNumber() // ids of etcd do not fit a float
	ts.Check(decoder.Decode(&value))
	for _, key := range args[2:] {
		list, isList := value.([]any)
		index, err := strconv.Atoi(key)
		if isList && err == nil && index < len(list) {
			value = list[index]
			continue
		}
		object, isObject := value.(map[string]any)
		if _, found := object[key]; !isObject || !found {
			ts.Fatalf("%s has no %q at %q", args[1], key, args[2:])
		}
		value = object[key]
	}
	text, isText := value.(string)
	if !isText {
		encoded, err := json.Marshal(value)
		ts.Check(err)
		text = string(encoded)
	}
	ts.Setenv(args[0], text)
}

func cmdEqual(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: equal A B")
	}
	if (args[0] == args[1]) == neg {
		ts.Fatalf("%q and %q", args[0], args[1])
	}
}

func cmdLike(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "like WORD PATTERN")
	pattern, err := regexp.Compile(`\A(?:` + args[1] + `)\z`)
	ts.Check(err)
	if !pattern.MatchString(args[0]) {
		ts.Fatalf("%q is not like %q", args[0], args[1])
	}
}

func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "start NAME PROGRAM ARG...")
	s := scriptOf(ts)
	path := args[1]
	if !strings.Contains(path, "/") {
		path = filepath.Join(ts.Getenv("BIN"), path)
	}
	command := exec.Command(path, args[2:]...)
	command.Args[0] = args[1]
	command.Dir, command.Env = ts.MkAbs("."), append([]string{}, s.environment...)
	b, err := startBackground(command)
	ts.Check(err)
	if s.started == nil {
		s.started = map[string]*background{}
	}
	s.started[args[0]] = b
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "signal NAME INT|TERM|KILL")
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	b, which := scriptOf(ts).started[args[0]], signals[args[1]]
	if b == nil || which == 0 {
		ts.Fatalf("want a started command and a signal, given %q", args)
	}
	ts.Check(b.command.Process.Signal(which))
}

func cmdFinish(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "finish NAME CODE")
	b := scriptOf(ts).started[args[0]]
	if b == nil {
		ts.Fatalf("%q was not started", args[0])
	}
	select {
	case <-b.done:
	case <-time.After(patience):
		ts.Fatalf("%q has not ended in %s", args[0], patience)
	}
	fmt.Fprint(ts.Stdout(), b.stdout.String())
	fmt.Fprint(ts.Stderr(), b.stderr.String())
	if got := strconv.Itoa(b.command.ProcessState.ExitCode()); got != args[1] {
		ts.Fatalf("%q: exit code %s, want %s", args[0], got, args[1])
	}
}

func cmdPID(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "pid VAR UNIT agent|etcd")
	p, err := scriptOf(ts).process(args[1], args[2])
	ts.Check(err)
	if !p.running() {
		ts.Fatalf("%s of %s does not run", args[2], args[1])
	}
	ts.Setenv(args[0], strconv.Itoa(p.PID))
}

func cmdSendSignal(which syscall.Signal) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		need(ts, neg, args, 2, "freeze|thaw|killproc UNIT agent|etcd")
		p, err := scriptOf(ts).process(args[0], args[1])
		ts.Check(err)
		if !p.running() {
			ts.Fatalf("%s of %s does not run", args[1], args[0])
		}
		ts.Check(signal(p.PID, which))
		if which == syscall.SIGKILL {
			awaitEnd(ts, p.running, p.PID)
		}
	}
}

func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "gone PID")
	pid, err := strconv.Atoi(args[0])
	ts.Check(err)
	awaitEnd(ts, func() bool { return syscall.Kill(pid, 0) == nil && !zombie(pid) }, pid)
}

func awaitEnd(ts *testscript.TestScript, running func() bool, pid int) {
	for end := time.Now().Add(patience); running(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("process %d still runs", pid)
		}
	}
}
