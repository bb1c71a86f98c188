package sftp_test

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
	"github.com/holdfast-project/holdfast/internal/store/sftptest"
)

func TestValidate(t *testing.T) {
	good := sftp.Options{Host: "backup.example", User: "etcd", Path: "/srv/backups"}
	for name, tt := range map[string]struct {
		change func(*sftp.Options)
		want   string // in the error; "" means that there is none
	}{
		"good":             {func(*sftp.Options) {}, ""},
		"port":             {func(o *sftp.Options) { o.Host = "backup.example:2222" }, ""},
		"IPv4":             {func(o *sftp.Options) { o.Host = "192.0.2.1:22" }, ""},
		"IPv6":             {func(o *sftp.Options) { o.Host = "2001:db8::1" }, ""},
		"IPv6 in brackets": {func(o *sftp.Options) { o.Host = "[2001:db8::1]" }, ""},
		"IPv6 and port":    {func(o *sftp.Options) { o.Host = "[2001:db8::1]:22" }, ""},
		"no host":          {func(o *sftp.Options) { o.Host = "" }, `host ""`},
		"only port":        {func(o *sftp.Options) { o.Host = ":22" }, `host ":22"`},
		"port 0":           {func(o *sftp.Options) { o.Host = "a:0" }, `host "a:0": its port`},
		"port name":        {func(o *sftp.Options) { o.Host = "a:ssh" }, `host "a:ssh": its port`},
		"two ports":        {func(o *sftp.Options) { o.Host = "a:1:2" }, `host "a:1:2"`},
		"user in host":     {func(o *sftp.Options) { o.Host = "me@a" }, `host "me@a"`},
		"several hosts":    {func(o *sftp.Options) { o.Host = "a,*" }, `host "a,*"`},
		"no user":          {func(o *sftp.Options) { o.User = "" }, `user ""`},
		"strange user":     {func(o *sftp.Options) { o.User = "a\nb" }, `user "a\nb"`},
		"relative":         {func(o *sftp.Options) { o.Path = "srv" }, `path "srv"`},
		"root":             {func(o *sftp.Options) { o.Path = "/srv/.." }, `path "/srv/.."`},
		"stall":            {func(o *sftp.Options) { o.Stall = -time.Second }, "stall -1s"},
		"several": {func(o *sftp.Options) { o.User, o.Path = "", "" }, `user "": want the name to log in with
path "": want an absolute one`},
	} {
		o := good
		tt.change(&o)
		err := o.Validate()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := sftp.New(o); (err == nil) != (tt.want == "") || err != nil && !errors.Is(err, store.ErrFinal) {
			t.Errorf("%s: new: %v", name, err)
		}
	}
}

// wantRefused has every call give an error of that class that says that, and nothing made on the server.
func wantRefused(t *testing.T, o sftp.Options, class error, want ...string) {
	t.Helper()
	s := open(t, o)
	_, putErr := s.Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{})
	_, statErr := s.Stat(t.Context(), "a")
	_, openErr := s.Open(t.Context(), "a", 0, -1)
	var listErr error
	for _, listErr = range s.List(t.Context(), "", "") {
	}
	_, sweepErr := s.Sweep(t.Context(), time.Hour)
	for call, err := range map[string]error{"put": putErr, "stat": statErr, "open": openErr, "list": listErr, "delete": s.Delete(t.Context(), "a"), "sweep": sweepErr} {
		if !errors.Is(err, class) {
			t.Errorf("%s: %v, want %v", call, err, class)
			continue
		}
		for _, words := range want {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v, want it to say %q", call, err, words)
			}
		}
	}
	if _, err := os.Lstat(o.Path); !os.IsNotExist(err) {
		t.Errorf("the folder was made: %v", err)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// writeFile writes a file into a folder of the test's own, with that mode.
func writeFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(name, []byte(text), 0o600), os.Chmod(name, mode)); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestHostKey takes only a server that is known.
func TestHostKey(t *testing.T) {
	server := sftptest.Start(t, "")
	right := string(must[[]byte](t)(os.ReadFile(server.KnownHosts)))
	other := must[ssh.PublicKey](t)(sftptest.NewKey(filepath.Join(t.TempDir(), "key")))
	host, port, err := net.SplitHostPort(server.Host)
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options("refused")
	for name, text := range map[string]string{"empty": "", "another host": strings.Replace(right, "127.", "128.", 1)} {
		o.KnownHosts = writeFile(t, text, 0o600)
		t.Run(name, func(t *testing.T) {
			wantRefused(t, o, store.ErrFinal, "is not known", "ssh-keyscan -p "+port+" "+host, strings.TrimSpace(right))
		})
	}
	o.KnownHosts = filepath.Join(t.TempDir(), "none")
	t.Run("no file", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "is not known", o.KnownHosts) })
	o.KnownHosts = writeFile(t, "\n"+knownhosts.Line([]string{server.Host}, other), 0o600)
	t.Run("another key", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "another host key", "line 2 of") })
	o.KnownHosts = writeFile(t, "@revoked * "+strings.SplitN(right, " ", 2)[1]+right, 0o600)
	t.Run("revoked", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "revoked") })
	o.KnownHosts = writeFile(t, "@what is this", 0o600)
	t.Run("no known hosts", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "read known hosts") })

	// The line that the error gives is enough, also with its name hashed.
	o = server.Options("taken")
	hashed := knownhosts.HashHostname(knownhosts.Normalize(server.Host)) + " " + strings.SplitN(right, " ", 2)[1]
	o.KnownHosts = writeFile(t, hashed, 0o600)
	if _, err := open(t, o).Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{}); err != nil {
		t.Error(err)
	}
}

// TestKeys logs in with a key, or says what is wrong with it.
func TestKeys(t *testing.T) {
	server := sftptest.Start(t, "")
	right := string(must[[]byte](t)(os.ReadFile(server.Identity)))
	t.Setenv("SSH_AUTH_SOCK", "")
	t.Setenv("HOME", t.TempDir())
	o := server.Options("refused")

	stranger := filepath.Join(t.TempDir(), "key")
	must[ssh.PublicKey](t)(sftptest.NewKey(stranger))
	o.IdentityFile = stranger
	t.Run("stranger", func(t *testing.T) { wantRefused(t, o, store.ErrDenied, "log in as", server.Host) })
	o.IdentityFile = writeFile(t, right, 0o640)
	t.Run("others may read", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "chmod 600", o.IdentityFile) })
	o.IdentityFile = filepath.Join(t.TempDir(), "none")
	t.Run("no file", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "read private key", o.IdentityFile) })
	o.IdentityFile = writeFile(t, "secret but no key", 0o600)
	t.Run("no key", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "holds none") })
	o.IdentityFile = t.TempDir()
	t.Run("folder", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "no file of a key") })
	o.IdentityFile = ""
	t.Run("nowhere", func(t *testing.T) { wantRefused(t, o, store.ErrDenied, "find a key") })

	private := must[any](t)(ssh.ParseRawPrivateKey([]byte(right)))
	encrypted := encrypt(t, private)
	o.IdentityFile = encrypted
	t.Run("encrypted", func(t *testing.T) { wantRefused(t, o, store.ErrFinal, "is encrypted", "ssh-add") })

	put := func(t *testing.T, o sftp.Options) {
		t.Helper()
		if _, err := open(t, o).Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{}); err != nil {
			t.Error(err)
		}
	}
	o = server.Options("encrypted")
	o.IdentityFile = encrypted
	other := must[any](t)(ssh.ParseRawPrivateKey(must[[]byte](t)(os.ReadFile(stranger))))
	t.Run("encrypted, and in the agent", func(t *testing.T) {
		t.Setenv("SSH_AUTH_SOCK", runAgent(t, other, private))
		put(t, o)
	})
	t.Run("encrypted, and another in the agent", func(t *testing.T) {
		t.Setenv("SSH_AUTH_SOCK", runAgent(t, other))
		o := server.Options("refused")
		o.IdentityFile = encrypted
		wantRefused(t, o, store.ErrFinal, "is encrypted")
	})
	o = server.Options("agent")
	o.IdentityFile = ""
	t.Run("agent", func(t *testing.T) {
		t.Setenv("SSH_AUTH_SOCK", runAgent(t, other, private))
		put(t, o)
	})
	o = server.Options("home")
	o.IdentityFile, o.KnownHosts = "", ""
	t.Run("home", func(t *testing.T) {
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("SSH_AUTH_SOCK", filepath.Join(home, "nobody-is-there"))
		err := errors.Join(os.Mkdir(filepath.Join(home, ".ssh"), 0o700), os.Rename(encrypted, filepath.Join(home, ".ssh", "id_ecdsa")),
			os.WriteFile(filepath.Join(home, ".ssh", "id_rsa"), []byte(right), 0o600),
			os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), must[[]byte](t)(os.ReadFile(server.KnownHosts)), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		put(t, o)
	})
}

func encrypt(t *testing.T, private any) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, string(pem.EncodeToMemory(block)), 0o600)
}

// runAgent is an ssh-agent with keys, for as long as the test runs. It gives its socket.
func runAgent(t *testing.T, keys ...any) string {
	t.Helper()
	ring := agent.NewKeyring()
	for _, key := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: key.(*ed25519.PrivateKey)}); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "agent") // the name of a socket has no more than 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if err := agent.ServeAgent(ring, conn); err != nil && err != io.EOF {
				t.Error(err)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// TestFolder takes no folder that is missing for an empty one, unless it is told to make it.
func TestFolder(t *testing.T) {
	server := sftptest.Start(t, "")
	o := server.Options("not-mounted")
	o.Create = false
	wantRefused(t, o, store.ErrNotFound, "folder", "not-mounted")
	if err := os.WriteFile(filepath.Join(server.Data, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, server.Options("file"))
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, store.ErrFinal) {
		t.Errorf("a file for a folder: %v", err)
	}
	if err := os.Mkdir(o.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, o).Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{}); err != nil {
		t.Error(err)
	}
}

// TestNoSFTP is a server that lets us in and has no SFTP.
func TestNoSFTP(t *testing.T) {
	wantRefused(t, sftptest.Start(t, sftptest.NoSFTP).Options("refused"), store.ErrFinal, "offers no SFTP")
}
