package netns

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// roleVariable makes this test binary one of the programs below.
	roleVariable = "HOLDFAST_NETNS_ROLE"
	// patience is how long anything may take that takes a second at most on an idle machine.
	patience = time.Minute
)

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleVariable), " ")
	var err error
	switch role {
	case "":
		os.Exit(m.Run())
	case "listen":
		err = listen()
	case "send":
		err = send(arg)
	case "test":
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// listen prints what comes to port 9000, a line each.
func listen() error {
	conn, err := net.ListenPacket("udp4", ":9000")
	if err != nil {
		return err
	}
	fmt.Println("ready")
	buffer := make([]byte, 100)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		fmt.Printf("%s\n", buffer[:n])
	}
}

// send sends a text to port 9000 of an address.
func send(arg string) error {
	to, text, _ := strings.Cut(arg, " ")
	conn, err := net.Dial("udp4", to+":9000")
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(text))
	return err
}

// program is this test binary in a role, on a host.
func program(t *testing.T, on *Host, role string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")
	on.Place(cmd)
	return cmd
}

// ear is a host that listens.
type ear struct {
	host  *Host
	lines chan string
	heard []string
}

func newEar(t *testing.T, host *Host) *ear {
	t.Helper()
	cmd := program(t, host, "listen")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e := &ear{host: host, lines: make(chan string, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			e.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it never ends by itself, or its lines would be missed
		<-done
		_ = cmd.Wait()
	})
	if line := <-e.lines; line != "ready" {
		t.Fatalf("it says %q", line)
	}
	return e
}

// hears sends a text until it arrives; after Heal that can take a moment.
func (e *ear) hears(t *testing.T, from *Host, text string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		e.tell(t, from, text)
		again := time.After(200 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case line := <-e.lines:
				e.heard = append(e.heard, line)
				if line == text {
					return
				}
			case <-again:
				waiting = false
			}
		}
	}
	t.Fatalf("%q never came from %s to %s; heard %q", text, from.Address, e.host.Address, e.heard)
}

// drain takes what is there already.
func (e *ear) drain() {
	for {
		select {
		case line := <-e.lines:
			e.heard = append(e.heard, line)
		default:
			return
		}
	}
}

// tell sends a text once.
func (e *ear) tell(t *testing.T, from *Host, text string) {
	t.Helper()
	if out, err := program(t, from, "send "+e.host.Address.String()+" "+text).CombinedOutput(); err != nil {
		t.Fatalf("send: %v\n%s", err, out)
	}
}

// TestNetwork breaks each way that there is: what is lost is lost, all other ways stay, and Heal ends it. Packets on one way
// keep their order, so what comes after a lost one proves that it is lost. Only a host without a cable may send later what it
// could not: it keeps some packets while it asks who has an address.
func TestNetwork(t *testing.T) {
	n := New(t, 3)
	var ears []*ear
	for _, h := range n.Hosts {
		ears = append(ears, newEar(t, h))
	}
	for step, tt := range []struct {
		name string
		harm func()
		lost [][2]int // from, to
		late bool
	}{
		{"drop", func() { n.Drop(n.Hosts[0], n.Hosts[1]) }, [][2]int{{0, 1}}, false},
		{"cut", func() { n.Cut(n.Hosts[1], n.Hosts[2]) }, [][2]int{{1, 2}, {2, 1}}, false},
		{"unplug", func() { n.Unplug(n.Hosts[2]) }, [][2]int{{0, 2}, {1, 2}, {2, 0}, {2, 1}}, true},
		{"all", func() { n.Unplug(n.Hosts[0]); n.Cut(n.Hosts[1], n.Hosts[2]) }, [][2]int{{0, 1}, {0, 2}, {1, 0}, {1, 2}, {2, 0}, {2, 1}}, true},
	} {
		each := func(do func(from *Host, to *ear, lost bool)) {
			for from := range 3 {
				for to := range 3 {
					if from != to {
						do(n.Hosts[from], ears[to], slices.Contains(tt.lost, [2]int{from, to}))
					}
				}
			}
		}
		text := func(what string, from *Host) string { return fmt.Sprintf("%d %s %s", step, what, from.Address) }
		check := func() {
			for _, e := range ears {
				e.drain()
				if i := slices.IndexFunc(e.heard, func(line string) bool { return strings.HasPrefix(line, fmt.Sprint(step, " lost")) }); i >= 0 {
					t.Errorf("%s: %q came to %s", tt.name, e.heard[i], e.host.Address)
				}
			}
		}
		each(func(from *Host, to *ear, _ bool) { to.hears(t, from, text("before", from)) })
		tt.harm()
		each(func(from *Host, to *ear, lost bool) {
			if lost {
				to.tell(t, from, text("lost", from))
			}
		})
		each(func(from *Host, to *ear, lost bool) {
			if !lost {
				to.hears(t, from, text("spared", from))
			}
		})
		check()
		n.Heal()
		each(func(from *Host, to *ear, _ bool) { to.hears(t, from, text("after", from)) })
		if !tt.late {
			check()
		}
	}
}

// TestNothingOutside: the hosts are in no namespace but their own, and two networks do not meet, though their addresses are
// the same.
func TestNothingOutside(t *testing.T) {
	before, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	one, other := New(t, 2), New(t, 2)
	ear, otherEar := newEar(t, one.Hosts[1]), newEar(t, other.Hosts[1])
	ear.hears(t, one.Hosts[0], "mine")
	otherEar.hears(t, other.Hosts[0], "yours")
	if len(otherEar.heard) != 1 {
		t.Errorf("the other network heard %q", otherEar.heard)
	}
	after, err := net.InterfaceAddrs()
	if err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("addresses %v became %v, %v", before, after, err)
	}
	if want := netip.MustParseAddr("192.0.2.2"); one.Hosts[1].Address != want || other.Hosts[1].Address != want {
		t.Errorf("the addresses are %s and %s", one.Hosts[1].Address, other.Hosts[1].Address)
	}
}

// TestKilled kills a test process: its namespaces go with it.
func TestKilled(t *testing.T) {
	if os.Getenv(roleVariable) == "test" { // the one to be killed
		n := New(t, 2)
		fmt.Printf("pids %d %d %d\n", n.bridge.pid, n.Hosts[0].space.pid, n.Hosts[1].space.pid)
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), roleVariable+"=test", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(out); len(pids) == 0 && lines.Scan(); {
		if rest, is := strings.CutPrefix(lines.Text(), "pids "); is {
			for _, word := range strings.Fields(rest) {
				pid, err := strconv.Atoi(word)
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
		}
	}
	_ = cmd.Process.Kill() // Wait tells
	_ = cmd.Wait()
	if len(pids) != 3 {
		t.Fatalf("it told of %d processes", len(pids))
	}
	deadline := time.Now().Add(patience)
	for _, pid := range pids {
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there", pid)
			}
			time.Sleep(10 * time.Millisecond) // between two looks
		}
	}
}

// alive tells whether a process runs; one that ended and that nobody has waited for does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestMissingProgramNamesTheCommand(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := find("holdfast-no-such-program"); err == nil || !strings.Contains(err.Error(), "make packages") {
		t.Errorf("got %v", err)
	}
	if _, err := find("nft"); err != nil {
		t.Errorf("it is where root's programs are: %v", err)
	}
}
