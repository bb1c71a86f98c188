package sftp_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
	"github.com/holdfast-project/holdfast/internal/store/sftptest"
)

func content(size int) []byte {
	all := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(all) // it cannot fail
	return all
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// files are all files below a folder.
func files(t *testing.T, folder string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, _ := filepath.Rel(folder, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return names
}

func wantFiles(t *testing.T, folder string, want ...string) {
	t.Helper()
	if got := files(t, folder); !slices.Equal(got, want) {
		t.Errorf("files: %q, want %q", got, want)
	}
}

func wantFile(t *testing.T, name string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d others", len(got), err, len(want))
	}
}

// TestKilledServer ends the server in the middle of a Put, which goes on when it comes back in time, and else fails and has
// nothing visible.
func TestKilledServer(t *testing.T) {
	server := sftptest.Start(t, "")
	o := server.Options("killed")
	s := open(t, o)
	all := content(50 << 20)
	kill := func(then func()) io.Reader {
		return io.MultiReader(bytes.NewReader(all[:40<<20]), readerFunc(func([]byte) (int, error) {
			server.Kill(t)
			then()
			return 0, io.EOF
		}), bytes.NewReader(all[40<<20:]))
	}
	if _, err := s.Put(t.Context(), "a/gone", kill(func() {}), store.PutOptions{}); err == nil || errors.Is(err, store.ErrFinal) {
		t.Errorf("put: %v", err)
	}
	for _, name := range files(t, o.Path) {
		if !strings.HasPrefix(name, ".tmp/gone-") {
			t.Errorf("%q is visible", name)
		}
	}
	if _, err := s.Stat(t.Context(), "a/gone"); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat without a server: %v", err)
	}
	server.Restart(t)
	if _, err := s.Stat(t.Context(), "a/gone"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat: %v", err)
	}
	if removed, err := s.Sweep(t.Context(), -time.Minute); removed != 1 || err != nil {
		t.Errorf("%d swept, %v", removed, err)
	}
	object, err := s.Put(t.Context(), "a/gone", kill(func() { server.Restart(t) }), store.PutOptions{})
	if err != nil || object.Size != int64(len(all)) {
		t.Errorf("put: %v, %v", object, err)
	}
	wantFiles(t, o.Path, "a/gone")
	wantFile(t, filepath.Join(o.Path, "a/gone"), all)
}

// TestLostAnswer ends connections when the server has done what was asked for, and has not said so.
func TestLostAnswer(t *testing.T) {
	all := content(17 << 20) // two parts
	for _, tt := range []struct {
		mode  string
		times int
		rival bool  // another has put the object meanwhile
		want  error // of the Put
	}{
		{"lose-link", 1, false, nil},
		{"lose-link", 3, false, nil},
		{"lose-link", 1, true, store.ErrExists},
		{"lose-link", 6, false, nil}, // after as many tries as there are, a look tells
		{"lose-rename", 1, false, nil},
		{"lose-rename", 1, true, store.ErrExists},
		{"lose-write", 3, false, nil},
		{"lose-sync", 3, false, nil},
	} {
		name := tt.mode
		if tt.rival {
			name += ", and a rival"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := writeFile(t, strings.Repeat("x", tt.times), 0o600)
			server := sftptest.Start(t, helper(tt.mode, file))
			o := server.Options("lost")
			rival, size := content(1000)[500:], int64(len(all))
			body := io.MultiReader(bytes.NewReader(all), readerFunc(func([]byte) (int, error) {
				if !tt.rival {
					return 0, io.EOF
				}
				size = int64(len(rival))
				if err := os.WriteFile(filepath.Join(o.Path, "a/object"), rival, 0o600); err != nil {
					t.Error(err)
				}
				return 0, io.EOF
			}))
			before := time.Now()
			object, err := open(t, o).Put(t.Context(), "a/object", body, store.PutOptions{})
			if !errors.Is(err, tt.want) {
				t.Errorf("put: %v", err)
			}
			if left, err := os.ReadFile(file); err != nil || len(left) > 0 {
				t.Errorf("%d answers were not asked for, %v", len(left), err)
			}
			wantFiles(t, o.Path, "a/object")
			if tt.rival {
				wantFile(t, filepath.Join(o.Path, "a/object"), rival)
				return
			}
			wantFile(t, filepath.Join(o.Path, "a/object"), all)
			info, err := os.Stat(filepath.Join(o.Path, "a/object"))
			if err != nil || object.Size != size || object.Modified.Sub(before).Abs() > time.Minute || info.ModTime().Sub(before).Abs() > time.Minute {
				t.Errorf("%v, and the file %v, %v", object, info, err)
			}
		})
	}
}

// TestBrokenWithoutSync gives up a large object whose first part the server may have lost.
func TestBrokenWithoutSync(t *testing.T) {
	server := sftptest.Start(t, "internal-sftp -P fsync")
	o := server.Options("bare")
	all := content(40 << 20)
	for _, at := range []int{1 << 20, 33 << 20} { // of parts of 16 MiB

		body := io.MultiReader(bytes.NewReader(all[:at]), readerFunc(func([]byte) (int, error) {
			server.Kill(t)
			server.Restart(t)
			return 0, io.EOF
		}), bytes.NewReader(all[at:]))
		_, err := open(t, o).Put(t.Context(), "a", body, store.PutOptions{})
		if at > 32<<20 {
			if err == nil || errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), "the connection was lost") {
				t.Errorf("put: %v", err)
			}
			wantFiles(t, o.Path)
			continue
		}
		if err != nil {
			t.Errorf("put: %v", err)
		}
		wantFile(t, filepath.Join(o.Path, "a"), all)
		if err := os.Remove(filepath.Join(o.Path, "a")); err != nil {
			t.Error(err)
		}
	}
}

// TestRenameReplaces refuses a server that cannot keep writers apart, and writes nothing.
func TestRenameReplaces(t *testing.T) {
	server := sftptest.Start(t, helper("replace"))
	o := server.Options("replaces")
	body := readerFunc(func([]byte) (int, error) { t.Error("the content is read"); return 0, io.EOF })
	if _, err := open(t, o).Put(t.Context(), "a", body, store.PutOptions{}); !errors.Is(err, store.ErrUnsupported) {
		t.Errorf("put: %v", err)
	}
	wantFiles(t, o.Path)
}

// TestSilentServer has everything end in bounded time with a server that takes connections and says nothing.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		group.Wait()
	})
	identity := filepath.Join(t.TempDir(), "key")
	if _, err := sftptest.NewKey(identity); err != nil {
		t.Fatal(err)
	}
	o := sftp.Options{Host: l.Addr().String(), User: "me", Path: "/a", IdentityFile: identity, KnownHosts: writeFile(t, "", 0o600), Stall: time.Second}
	o.Retry.Attempts = 1
	began := time.Now()
	wantRefusedFor(t, open(t, o), "it is not ready after 1s")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	// The end of ctx is not waited for.
	enough := errors.New("that is enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, enough)
	defer cancel()
	o.Stall = time.Hour
	hurried, err := sftp.New(o) // not closed: that would wait for the connection
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hurried.Stat(ctx, "a"); !errors.Is(err, enough) {
		t.Errorf("stat: %v", err)
	}
}

func wantRefusedFor(t *testing.T, s *sftp.Store, want string) {
	t.Helper()
	_, putErr := s.Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{})
	_, statErr := s.Stat(t.Context(), "a")
	for call, err := range map[string]error{"put": putErr, "stat": statErr} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", call, err)
		}
		for _, class := range []error{store.ErrFinal, store.ErrDenied, store.ErrNotFound} {
			if errors.Is(err, class) {
				t.Errorf("%s: %v is %v", call, err, class)
			}
		}
	}
}

// TestHungServer has an SFTP server that takes all and answers nothing any more, while its SSH server is well.
func TestHungServer(t *testing.T) {
	t.Parallel()
	sign := filepath.Join(t.TempDir(), "sign")
	server := sftptest.Start(t, helper("hang", sign))
	o := server.Options("hung")
	o.Stall = 2 * time.Second
	o.Retry.Attempts = 2
	s := open(t, o)
	all := content(3 << 20)
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(all), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	body, err := s.Open(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("that is enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, enough)
	defer cancel()
	if _, err := s.Stat(ctx, "a"); !errors.Is(err, enough) {
		t.Errorf("stat: %v", err)
	}
	began := time.Now()
	if _, err := s.Stat(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "silent for 2s") {
		t.Errorf("stat: %v", err)
	}
	if _, err := io.ReadAll(body); err == nil || !strings.Contains(err.Error(), `read object "a"`) {
		t.Errorf("read: %v", err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Put(t.Context(), "b", bytes.NewReader(all), store.PutOptions{}); err == nil {
		t.Error("put works")
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if err := os.Remove(sign); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "b", bytes.NewReader(all), store.PutOptions{}); err != nil {
		t.Errorf("put: %v", err)
	}
}

// TestCancelledPut ends at once also while the server hangs, and leaves content alone.
func TestCancelledPut(t *testing.T) {
	t.Parallel()
	sign := filepath.Join(t.TempDir(), "sign")
	server := sftptest.Start(t, helper("hang", sign))
	o := server.Options("cancelled")
	o.Stall = 10 * time.Minute
	s := open(t, o)
	enough := errors.New("that is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	returned, read := false, 0
	body := readerFunc(func(p []byte) (int, error) {
		if returned {
			t.Error("content is read after the return")
		}
		if read += len(p); read > 20<<20 { // the first part is on its way
			if err := os.WriteFile(sign, nil, 0o600); err != nil {
				t.Error(err)
			}
			cancel(enough)
		}
		return len(p), nil
	})
	began := time.Now()
	if _, err := s.Put(ctx, "a", body, store.PutOptions{}); !errors.Is(err, enough) {
		t.Errorf("put: %v", err)
	}
	returned = true
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	if _, err := os.Lstat(filepath.Join(o.Path, "a")); !os.IsNotExist(err) {
		t.Errorf("it is visible: %v", err)
	}
}

// TestHostileFolder has on the server what somebody could put there who may write there.
func TestHostileFolder(t *testing.T) {
	server := sftptest.Start(t, "")
	o := server.Options("store")
	s, outside := open(t, o), t.TempDir()
	if _, err := s.Put(t.Context(), "good", strings.NewReader("good"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(o.Path, "link")),
		os.Symlink(outside, filepath.Join(o.Path, "folder")),
		os.Symlink("good", filepath.Join(o.Path, "good-too")),
		syscall.Mkfifo(filepath.Join(o.Path, "pipe"), 0o600),
		os.WriteFile(filepath.Join(o.Path, ".part-0123"), []byte("on its way"), 0o600),
		os.WriteFile(filepath.Join(o.Path, ".tmp", "visible"), []byte("on its way"), 0o600),
		os.WriteFile(filepath.Join(o.Path, "a b\n"), []byte("strange"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"link", "folder/secret", "pipe", "folder", "good-too"} {
		if body, err := s.Open(t.Context(), name, 0, -1); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("open %q: %v", name, err)
			if err == nil {
				body.Close()
			}
		}
		if err := s.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %q: %v", name, err)
		}
	}
	for _, name := range []string{"folder/new", "link", "pipe", "good/below"} {
		if _, err := s.Put(t.Context(), name, strings.NewReader("x"), store.PutOptions{}); !errors.Is(err, store.ErrFinal) {
			t.Errorf("put %q: %v", name, err)
		}
	}
	for _, prefix := range []string{"", "folder/", "g"} {
		var names []string
		for object, err := range s.List(t.Context(), prefix, "") {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, object.Name)
		}
		if prefix == "folder/" && len(names) != 0 || prefix != "folder/" && !slices.Equal(names, []string{"good"}) {
			t.Errorf("listed %q: %q", prefix, names)
		}
	}
	wantFiles(t, outside, "secret")
}

// TestFolderIsRemoved lets somebody tidy up empty folders while the store is open.
func TestFolderIsRemoved(t *testing.T) {
	server := sftptest.Start(t, "")
	o := server.Options("store")
	s := open(t, o)
	put := func(name string) {
		t.Helper()
		if _, err := s.Put(t.Context(), name, strings.NewReader("x"), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put("a/b/c")
	if err := os.RemoveAll(filepath.Join(o.Path, "a")); err != nil {
		t.Fatal(err)
	}
	put("a/b/d")
	wantFiles(t, o.Path, "a/b/d")
	if err := os.RemoveAll(filepath.Join(o.Path, ".tmp")); err != nil {
		t.Fatal(err)
	}
	put("a/b/e")
}

func TestSweep(t *testing.T) {
	server := sftptest.Start(t, "")
	o := server.Options("store")
	s := open(t, o)
	if removed, err := s.Sweep(t.Context(), 0); removed != 0 || err != nil {
		t.Errorf("%d removed of nothing, %v", removed, err)
	}
	if _, err := s.Put(t.Context(), "a/object", strings.NewReader("x"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-25 * time.Hour)
	for name, at := range map[string]time.Time{".tmp/old": old, ".tmp/new": time.Now(), "a/other": old} {
		path := filepath.Join(o.Path, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{1, 0} {
		if removed, err := s.Sweep(t.Context(), 24*time.Hour); removed != want || err != nil {
			t.Errorf("%d removed, %v", removed, err)
		}
	}
	wantFiles(t, o.Path, ".tmp/new", "a/object", "a/other")
	// A Put whose file was swept away fails, and says so.
	body := io.MultiReader(bytes.NewReader(content(17<<20)), readerFunc(func([]byte) (int, error) {
		for deadline := time.Now().Add(time.Minute); len(files(t, filepath.Join(o.Path, ".tmp"))) < 2 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // between looks at whether its first part has come
		}
		_, err := s.Sweep(t.Context(), -time.Minute)
		return 0, errors.Join(err, io.EOF)
	}))
	if _, err := s.Put(t.Context(), "swept", readerFunc(func(p []byte) (int, error) {
		n, err := body.Read(p)
		if errors.Is(err, io.EOF) {
			err = io.EOF
		}
		return n, err
	}), store.PutOptions{}); !errors.Is(err, store.ErrFinal) {
		t.Errorf("a put whose file was removed: %v", err)
	}
	wantFiles(t, o.Path, "a/object", "a/other")
}

// TestEndOfContext ends every call with the cause.
func TestEndOfContext(t *testing.T) {
	server := sftptest.Start(t, "")
	s := open(t, server.Options("store"))
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(content(1000)), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("that is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	body, err := s.Open(ctx, "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	cancel(enough)
	_, readErr := io.ReadAll(body)
	_, statErr := s.Stat(ctx, "a")
	_, openErr := s.Open(ctx, "a", 0, -1)
	_, putErr := s.Put(ctx, "b", strings.NewReader("x"), store.PutOptions{})
	var listErr error
	for _, listErr = range s.List(ctx, "", "") {
	}
	_, sweepErr := s.Sweep(ctx, 0)
	for name, err := range map[string]error{
		"read": readErr, "stat": statErr, "open": openErr, "put": putErr, "list": listErr, "delete": s.Delete(ctx, "a"), "sweep": sweepErr,
	} {
		if !errors.Is(err, enough) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

// TestDenied is a folder that this user may not write to, which root always may.
func TestDenied(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("root may do everything: a server that refuses stands for the folder's mode")
		server := sftptest.Start(t, "internal-sftp -P hardlink,rename,open")
		s := open(t, server.Options("store"))
		if _, err := s.Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{}); !errors.Is(err, store.ErrDenied) {
			t.Errorf("put: %v", err)
		}
		return
	}
	server := sftptest.Start(t, "")
	o := server.Options("store")
	if err := os.Mkdir(o.Path, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, o).Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{}); !errors.Is(err, store.ErrDenied) {
		t.Errorf("put: %v", err)
	}
}

// TestIdle lets go of a connection that nobody uses, and makes another when it is needed.
func TestIdle(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t, "")
	o := server.Options("store")
	o.Stall = 2 * time.Second // which is also how often it is looked at: each eighth of it
	s := open(t, o)
	put := func(name string) {
		t.Helper()
		if _, err := s.Put(t.Context(), name, strings.NewReader("x"), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	body, err := s.Open(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	gone := sftp.LetTimePass(s)
	select {
	case <-gone:
		t.Error("an open object does not keep the connection")
	case <-time.After(time.Second):
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != "x" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	for deadline := time.After(time.Minute); ; {
		select {
		case <-deadline:
			t.Fatal("the connection is still there")
		case <-time.After(10 * time.Millisecond): // until the object is closed, which is not waited for
			sftp.LetTimePass(s)
			continue
		case <-gone:
		}
		break
	}
	put("b")
}

// TestReads takes up reads that break off, through store.Retry.
func TestReads(t *testing.T) {
	server := sftptest.Start(t, "")
	o := server.Options("store")
	direct := open(t, o)
	s := store.Retry(direct, o.Retry)
	want := content(9 << 20)
	if _, err := s.Put(t.Context(), "a/b", bytes.NewReader(want), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	body, err := s.Open(t.Context(), "a/b", 1000, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	begin := make([]byte, 1<<20)
	if _, err := io.ReadFull(body, begin); err != nil {
		t.Fatal(err)
	}
	server.Kill(t)
	server.Restart(t)
	rest, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(append(begin, rest...), want[1000:1000+8<<20]) {
		t.Errorf("%d bytes, %v", len(begin)+len(rest), err)
	}
	// A file that was cut is no whole object.
	if body, err = direct.Open(t.Context(), "a/b", 0, -1); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(o.Path, "a/b"), 1000); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if !errors.Is(err, store.ErrFinal) || len(got) != 1000 {
		t.Errorf("%d bytes of a file that was cut, %v", len(got), err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}
