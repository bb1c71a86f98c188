// Package netns gives tests a network that really breaks: hosts, each a Linux network namespace of its own, on one switch,
// which is a bridge in another namespace. Cables are pulled out of the switch and packets are lost in it, so neither host is
// told: what a program sees is silence, as when a machine is gone or a firewall has a new rule.
//
// It is for tests only; internal/etcdtest runs its servers on such a host by Options.Command. Nothing is put into the
// namespace that the tests themselves run in, so a test cannot dial a host; Unix sockets in the file system reach across.
// Each host has a loopback device of its own, so all may use the same ports. The namespaces have no name anywhere: each is
// kept by a small process that ends with the test process, however that dies, and so networks of other runs, also of killed
// ones, are neither seen nor in the way.
//
// Root is not needed where users may make user namespaces. A Network is not safe for concurrent use. Not promised: names
// (there is no DNS), IPv6, and loss of a share of the packets.
package netns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// commandTime is how long one command on a network may take; it takes milliseconds on an idle machine.
const commandTime = time.Minute

// Network is a switch and the hosts on it.
type Network struct {
	// Hosts are the hosts, with ascending addresses.
	Hosts []*Host

	t        testing.TB
	bridge   *space
	programs programs
}

// Host is one machine of a network.
type Host struct {
	// Address is where the other hosts reach it. It is one of those that are for documentation, and nowhere else routed.
	Address netip.Addr

	port  string // the end of its cable that is in the switch
	space *space
}

// New makes a network of so many hosts, at most 200, that lasts as long as the test. All reach each other.
func New(t testing.TB, hosts int) *Network {
	t.Helper()
	found, err := findPrograms()
	if err != nil {
		t.Fatal(err)
	}
	n := &Network{t: t, programs: found}
	own := []string{found["unshare"], "--net"}
	if os.Geteuid() != 0 {
		own = append(own, "--user", "--map-root-user")
	}
	n.bridge = n.hold(own)
	n.run(n.bridge, "link set lo up\nlink add br0 type bridge\nlink set br0 up\n", "ip", "-batch", "-")
	n.run(n.bridge, "add table bridge cut\nadd chain bridge cut forward { type filter hook forward priority 0; policy accept; }\n", "nft", "-f", "-")
	for i := range hosts {
		h := &Host{Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), port: fmt.Sprintf("port%d", i+1)}
		words := []string{found["unshare"], "--net"}
		if os.Geteuid() != 0 { // in the user namespace of the switch, as one side of a cable is made from the other
			words = append(n.bridge.enterUser(), words...)
		}
		h.space = n.hold(words)
		n.run(n.bridge, fmt.Sprintf("link add %[1]s type veth peer name eth0 netns %[2]d\nlink set %[1]s master br0 up\n", h.port, h.space.pid), "ip", "-batch", "-")
		n.run(h.space, fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 up\n", h.Address), "ip", "-batch", "-")
		n.Hosts = append(n.Hosts, h)
	}
	return n
}

// Place makes a command that has not been started one that runs on the host. The process is the one that is started, and has
// its files, environment and folder.
func (h *Host) Place(cmd *exec.Cmd) {
	words := append(h.space.enter(), cmd.Path)
	cmd.Path, cmd.Args = words[0], append(words, cmd.Args[1:]...)
}

// Unplug takes a host off the switch: it reaches nobody and nobody reaches it, until Heal.
func (n *Network) Unplug(h *Host) {
	n.t.Helper()
	n.run(n.bridge, "link set "+h.port+" down\n", "ip", "-batch", "-")
}

// Drop loses everything that one host sends to another, until Heal. The way back stays.
func (n *Network) Drop(from, to *Host) {
	n.t.Helper()
	n.run(n.bridge, fmt.Sprintf("add rule bridge cut forward ip saddr %s ip daddr %s drop\n", from.Address, to.Address), "nft", "-f", "-")
}

// Cut loses everything that two hosts send to each other, until Heal.
func (n *Network) Cut(a, b *Host) {
	n.t.Helper()
	n.Drop(a, b)
	n.Drop(b, a)
}

// Heal ends all that was broken. It takes up to a second before a host that was off the switch is reached again.
func (n *Network) Heal() {
	n.t.Helper()
	n.run(n.bridge, "flush chain bridge cut forward\n", "nft", "-f", "-")
	var up strings.Builder
	for _, h := range n.Hosts {
		fmt.Fprintf(&up, "link set %s up\n", h.port)
	}
	n.run(n.bridge, up.String(), "ip", "-batch", "-")
}

// Sysctl sets a parameter of a host's kernel, such as "net/ipv4/tcp_retries2"; only those that each namespace has for itself.
func (n *Network) Sysctl(h *Host, name, value string) {
	n.t.Helper()
	n.run(h.space, value, "sh", "-c", `exec cat >"$0"`, "/proc/sys/"+name)
}

// run runs a program in a namespace, with text on its standard input.
func (n *Network) run(in *space, text, name string, args ...string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime) // a test may heal while it ends
	defer cancel()
	words := append(in.enter(), n.programs[name])
	words = append(words, args...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%s with %q: %v\n%s", name, text, err, out)
	}
}

// space is a network namespace. It is kept by a process that waits for the end of its input, a pipe from this process.
type space struct {
	pid      int
	programs programs
}

// hold runs the process of a new namespace; words make it and become the program after them by exec.
func (n *Network) hold(words []string) *space {
	n.t.Helper()
	cmd := exec.Command(words[0], append(words[1:], n.programs["sh"], "-c", "echo made; exec cat >/dev/null")...)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatalf("make a network namespace: %v", err)
	}
	n.t.Cleanup(func() {
		_ = stdin.Close() // it may have been killed, which Wait tells
		if err := cmd.Wait(); err != nil {
			n.t.Errorf("the process that kept a network namespace: %v\n%s", err, &problems)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "made\n" {
		_ = stdin.Close()
		_ = cmd.Wait() // for what it said
		n.t.Fatalf("make a network namespace: %v: %s\nrun the tests as root, or let users make user namespaces", err, strings.TrimSpace(problems.String()))
	}
	return &space{pid: cmd.Process.Pid, programs: n.programs}
}

// enter gives words that become the program after them, in the namespace.
func (s *space) enter() []string {
	if os.Geteuid() == 0 {
		return []string{s.programs["nsenter"], "--target", strconv.Itoa(s.pid), "--net"}
	}
	return append(s.enterUser(), "--net")
}

// enterUser is enter for the user namespace alone.
func (s *space) enterUser() []string {
	return []string{s.programs["nsenter"], "--target", strconv.Itoa(s.pid), "--user", "--preserve-credentials"}
}

// programs are paths by name.
type programs map[string]string

func findPrograms() (programs, error) {
	found := programs{}
	for _, name := range []string{"unshare", "nsenter", "ip", "nft", "sh"} {
		path, err := find(name)
		if err != nil {
			return nil, err
		}
		found[name] = path
	}
	return found, nil
}

// find gives the path of a program. It looks where root's programs are too, as not everybody has these in the path.
func find(name string) (string, error) {
	for _, try := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(try); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("network namespaces need the program %q; run: make packages", name)
}
