package scripts

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// Some scripts need a disk that is full or read-only. They run the units' processes in a mount namespace of their own, so
// that nobody else sees the mounts and all are gone with the processes. Without root it is a user namespace as well.

// inNamespace gives the words that start a shell in a new namespace.
func inNamespace() []string {
	if os.Geteuid() == 0 {
		return []string{"unshare", "--mount", "sh", "-c"}
	}
	return []string{"unshare", "--mount", "--map-root-user", "sh", "-c"}
}

// cmdIsolate kills the agents of an application and starts them again in a namespace. With arguments after its name,
// which are those of mount(8), it also kills their etcds and mounts first.
func cmdIsolate(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "isolate APP [MOUNT ARG...]")
	s := scriptOf(ts)
	for _, name := range s.units(ts, args[0]) {
		cmdSendSignal(9)(ts, false, []string{name.String(), "agent"})
		if len(args) > 1 {
			cmdSendSignal(9)(ts, false, []string{name.String(), "etcd"})
		}
	}
	shell := `application="$1"; shift; if [ $# -gt 0 ]; then mount "$@" || exit; fi; exec holdfast start "$application"`
	words := append(inNamespace(), shell, "sh")
	wantCode(ts, 0, append(words, args...))
}

// cmdMount mounts a tmpfs on a folder of a unit, for its isolated agent only.
func cmdMount(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "mount UNIT PATH OPTIONS")
	s := scriptOf(ts)
	name, err := unit.ParseName(args[0])
	ts.Check(err)
	record, err := s.inventory(ts).Unit(name)
	ts.Check(err)
	folder := filepath.Join(record.Root, args[1])
	ts.Check(os.MkdirAll(folder, 0o700))
	agent, err := s.process(args[0], "agent")
	ts.Check(err)
	words := []string{"nsenter", "--mount", "--target", strconv.Itoa(agent.PID)}
	if os.Geteuid() != 0 {
		words = append(words, "--user", "--preserve-credentials")
	}
	wantCode(ts, 0, append(words, "mount", "-t", "tmpfs", "-o", args[2], "tmpfs", folder))
}
