package sftp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/pkg/sftp"
)

// TestMain lets the test program be an SFTP server that sshd runs, see helper.
func TestMain(m *testing.M) {
	mode, file := os.Getenv("SFTP_TEST_MODE"), os.Getenv("SFTP_TEST_FILE")
	var err error
	switch mode {
	case "":
		os.Exit(m.Run())
	case "serve":
		err = serve("hardlink@openssh.com", "posix-rename@openssh.com")
	case "replace":
		err = serve("posix-rename@openssh.com")
	case "lose-link":
		err = lose(file, func(packet []byte) bool { return isExtended(packet, "hardlink@openssh.com") })
	case "lose-rename":
		err = lose(file, func(packet []byte) bool { return packet[0] == 18 && bytes.Contains(packet, []byte("/object-")) }, "-P", "hardlink")
	case "lose-write":
		err = lose(file, func(packet []byte) bool { return packet[0] == 6 })
	case "lose-sync":
		err = lose(file, func(packet []byte) bool { return isExtended(packet, "fsync@openssh.com") })
	case "hang":
		err = hang(file)
	default:
		err = errors.New("unknown mode " + mode)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helper is a command for sshd that runs this program as an SFTP server. file is one that it needs, or none.
func helper(mode string, file ...string) string {
	program, err := os.Executable()
	if err != nil {
		panic(err)
	}
	command := "/usr/bin/env GORACE=atexit_sleep_ms=0 SFTP_TEST_MODE=" + mode // else the race detector waits a second
	for _, name := range file {
		command += " SFTP_TEST_FILE=" + name
	}
	return command + " " + program
}

// serve is a server of another make than OpenSSH's: its rename replaces files, it cannot sync, and it does not open folders.
func serve(extensions ...string) error {
	if err := sftp.SetSFTPExtensions(extensions...); err != nil {
		return err
	}
	server, err := sftp.NewServer(stdio{})
	if err != nil {
		return err
	}
	if err := server.Serve(); err != io.EOF {
		return err
	}
	return nil
}

type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return nil }

// isExtended tells whether a packet, from its type on, is a call of an extension.
func isExtended(packet []byte, name string) bool {
	return packet[0] == 200 && len(packet) >= 9+len(name) && string(packet[9:9+len(name)]) == name
}

// lose is OpenSSH's server, which ends the connection when it has done what is asked in a packet of that kind, and before
// the answer. That happens as often as the file has bytes, each of which it takes away.
func lose(file string, match func(packet []byte) bool, args ...string) error {
	server := exec.Command("/usr/lib/openssh/sftp-server", args...)
	in, err := server.StdinPipe()
	if err != nil {
		return err
	}
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	// The server answers in order, so that the end of its output, after the end of its input, comes when all is done.
	cut, answered := false, make(chan error, 1)
	answers := &gate{to: os.Stdout}
	go func() {
		_, err := io.Copy(answers, out)
		answered <- err
	}()
	for {
		packet, err := readPacket(os.Stdin)
		if err != nil {
			break
		}
		if left, err := os.ReadFile(file); err == nil && len(left) > 0 && match(packet[4:]) {
			if err := os.WriteFile(file, left[1:], 0o600); err != nil {
				return err
			}
			cut = true
			answers.shut()
		}
		if _, err := in.Write(packet); err != nil {
			return err
		}
		if cut {
			break
		}
	}
	if err := in.Close(); err != nil {
		return err
	}
	return errors.Join(<-answered, server.Wait())
}

// hang is OpenSSH's server until the file is there; then it takes all and gives nothing.
func hang(file string) error {
	server := exec.Command("/usr/lib/openssh/sftp-server")
	in, err := server.StdinPipe()
	if err != nil {
		return err
	}
	server.Stdout = os.Stdout
	if err := server.Start(); err != nil {
		return err
	}
	for {
		packet, err := readPacket(os.Stdin)
		if err != nil {
			break
		}
		if _, err := os.Stat(file); err == nil {
			continue
		}
		if _, err := in.Write(packet); err != nil {
			return err
		}
	}
	return errors.Join(in.Close(), server.Wait())
}

// readPacket reads a packet with its length.
func readPacket(from io.Reader) ([]byte, error) {
	packet := make([]byte, 4)
	if _, err := io.ReadFull(from, packet); err != nil {
		return nil, err
	}
	packet = append(packet, make([]byte, binary.BigEndian.Uint32(packet))...)
	_, err := io.ReadFull(from, packet[4:])
	return packet, err
}

// gate lets through what is written to it until it is shut.
type gate struct {
	to     io.Writer
	mu     sync.Mutex
	closed bool
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return len(p), nil
	}
	return g.to.Write(p)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
