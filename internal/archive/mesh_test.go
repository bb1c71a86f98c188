package archive

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

// mesh is a cluster whose members reach each other through this test, so that one can be cut off from the others while its
// clients still reach it. Nothing is lost on its ways, only late; test/moment has a network that loses packets.
type mesh struct {
	members []*etcdtest.Server

	mu sync.Mutex
	// cutOff is the member that no peer reaches; changed is closed and replaced when it is another one.
	cutOff  *etcdtest.Server
	changed chan struct{}
	conns   map[net.Conn]bool
	ended   bool
}

func startMesh(t *testing.T, version etcdtest.Version, n int) *mesh {
	t.Helper()
	m := &mesh{changed: make(chan struct{}), conns: map[net.Conn]bool{}}
	var running sync.WaitGroup
	var listeners []net.Listener
	var entries, own []string
	for i := range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		listeners = append(listeners, listener)
		entries = append(entries, fmt.Sprintf("m%d=http://%s", i+1, listener.Addr()))
		own = append(own, fmt.Sprintf("127.0.0.1:%d", etcdtest.ReservePort(t)))
	}
	t.Cleanup(func() {
		m.mu.Lock()
		m.ended = true
		close(m.changed)
		for c := range m.conns {
			_ = c.Close() // whoever copies sees it
		}
		m.mu.Unlock()
		for _, l := range listeners {
			_ = l.Close()
		}
		running.Wait()
	})
	for i := range n {
		m.members = append(m.members, etcdtest.Start(t, version, etcdtest.Options{
			Name: fmt.Sprintf("m%d", i+1), PeerURL: "http://" + listeners[i].Addr().String(), InitialCluster: strings.Join(entries, ","),
			Args: []string{"--listen-peer-urls=http://" + own[i]}, NoWait: true,
		}))
	}
	for i, l := range listeners {
		running.Go(func() {
			for {
				in, err := l.Accept()
				if err != nil {
					return
				}
				running.Go(func() { m.carry(in, own[i], m.members[i], &running) })
			}
		})
	}
	for _, s := range m.members {
		must(t, s.WaitHealthy(t.Context()))
	}
	return m
}

// carry takes what comes from one member to another, and back.
func (m *mesh) carry(in net.Conn, address string, to *etcdtest.Server, running *sync.WaitGroup) {
	from := m.who(in.RemoteAddr().String())
	out, err := net.Dial("tcp", address)
	if err != nil {
		_ = in.Close()
		return
	}
	m.mu.Lock()
	m.conns[in], m.conns[out] = true, true
	ended := m.ended
	m.mu.Unlock()
	if ended {
		_, _ = in.Close(), out.Close()
		return
	}
	half := func(dst, src net.Conn) {
		defer func() { _, _ = dst.Close(), src.Close() }()
		buffer := make([]byte, 64<<10)
		for {
			n, err := src.Read(buffer)
			if err != nil || !m.pass(from, to) {
				return
			}
			if _, err := dst.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
	running.Go(func() { half(in, out) })
	half(out, in)
}

// pass waits while one of two members is cut off.
func (m *mesh) pass(a, b *etcdtest.Server) bool {
	for {
		m.mu.Lock()
		cut, ended, changed := m.cutOff, m.ended, m.changed
		m.mu.Unlock()
		if ended || cut == nil || cut != a && cut != b {
			return !ended
		}
		<-changed
	}
}

// isolate cuts a member off; nil joins it again.
func (m *mesh) isolate(s *etcdtest.Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cutOff = s
	close(m.changed)
	m.changed = make(chan struct{})
}

// who finds the member that has a socket with an address.
func (m *mesh) who(address string) *etcdtest.Server {
	host, port, _ := net.SplitHostPort(address)
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil || host != "127.0.0.1" {
		return nil
	}
	table, _ := os.ReadFile("/proc/net/tcp")
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[1] != fmt.Sprintf("0100007F:%04X", number) {
			continue
		}
		programs, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the process ids change when members are started again
		for _, program := range programs {
			command, _ := os.ReadFile(program)
			i := slices.IndexFunc(m.members, func(s *etcdtest.Server) bool {
				return strings.Contains(string(command), "--data-dir="+s.DataDir+"\x00")
			})
			if i < 0 {
				continue
			}
			files, _ := filepath.Glob(filepath.Join(filepath.Dir(program), "fd", "*"))
			for _, f := range files {
				if to, _ := os.Readlink(f); to == "socket:["+fields[9]+"]" {
					return m.members[i]
				}
			}
		}
	}
	return nil
}
