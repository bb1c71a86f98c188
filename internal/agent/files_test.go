package agent

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/pki"
)

// TestFilesAreInsideTheFolders tries every way out of the folders that are served, to read and to write.
func TestFilesAreInsideTheFolders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret := []byte("a secret of the unit's host")
	outside := filepath.Join(f.dir, "outside")
	must(t, os.WriteFile(outside, secret, 0o600))
	for _, folder := range []string{"/home/ubuntu/sub", "/home/ubuntu/etcd-snapshots", "/home/other", "/etc"} {
		must(t, os.MkdirAll(f.inRoot(folder), 0o700))
	}
	for _, file := range []string{"/etc/passwd", "/home/other/f", "/home/ubuntux"} {
		must(t, os.WriteFile(f.inRoot(file), secret, 0o600))
	}
	must(t, os.WriteFile(f.inRoot("/home/ubuntu/file"), []byte("fine"), 0o600))
	must(t, os.WriteFile(f.inRoot("/home/ubuntu/sub/file"), []byte("fine"), 0o600))
	for name, target := range map[string]string{
		"out-absolute": outside, "out-relative": "../../../../outside", "out-folder": f.dir, "in-root": "../../etc/passwd", "inside": "file", "loop": "loop", "dangling": "nothing",
	} {
		must(t, os.Symlink(target, f.inRoot("/home/ubuntu/"+name)))
	}
	must(t, syscall.Mkfifo(f.inRoot("/home/ubuntu/pipe"), 0o600))
	unixSocket, err := net.Listen("unix", f.inRoot("/home/ubuntu/socket"))
	must(t, err)
	defer unixSocket.Close()
	if err := syscall.Mknod(f.inRoot("/home/ubuntu/device"), syscall.S_IFCHR|0o600, 1<<8|5); err != nil && !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	} else if err != nil { // it takes root to make one; a folder is as little a file
		must(t, os.Mkdir(f.inRoot("/home/ubuntu/device"), 0o700))
	}
	f.serve(t, f.open(t))
	client := f.http(t, f.as(t, pki.Operator))
	client.Timeout = 10 * time.Second // nothing may wait, for the other end of a pipe for example
	before := f.files(t, f.dir)
	const refused, bad, missing = http.StatusForbidden, http.StatusBadRequest, http.StatusNotFound
	for path, want := range map[string]struct{ get, put int }{
		"":                                    {bad, bad},
		"\x00":                                {bad, bad},
		"file\x00":                            {bad, bad},
		"/home/ubuntu/../other/f":             {refused, refused},
		"../other/f":                          {refused, refused},
		"../ubuntux":                          {refused, refused},
		"/home/ubuntux":                       {refused, refused},
		"/home/ubuntu":                        {refused, refused},
		"/home/ubuntu/":                       {refused, refused},
		".":                                   {refused, refused},
		"/":                                   {refused, refused},
		"/etc/passwd":                         {refused, refused},
		"//etc/passwd":                        {refused, refused},
		"../../../../../etc/passwd":           {refused, refused},
		"sub/../../other/f":                   {refused, refused},
		"/home/ubuntu/sub/../../../etc/x":     {refused, refused},
		f.inRoot("/home/ubuntu/file"):         {refused, refused},
		"/proc/self/environ":                  {refused, refused},
		"out-folder/outside":                  {refused, refused},
		"out-absolute":                        {refused, http.StatusConflict},
		"out-relative":                        {refused, http.StatusConflict},
		"in-root":                             {http.StatusOK, http.StatusConflict}, // a link that the unit's owner made, inside the unit
		"inside":                              {http.StatusOK, http.StatusConflict},
		"loop":                                {bad, http.StatusConflict},
		"dangling":                            {missing, http.StatusConflict},
		"pipe":                                {bad, http.StatusConflict},
		"socket":                              {bad, http.StatusConflict},
		"sub":                                 {bad, bad},
		"sub/":                                {bad, bad},
		"device/x":                            {-1, -1},
		"file/x":                              {bad, bad},
		"/home/ubuntu/none":                   {missing, -1},
		"/home/ubuntu/etcd-snapshots/none":    {missing, -1},
		"/home/ubuntu/./sub//../sub/./file":   {http.StatusOK, http.StatusConflict},
		"/home/ubuntu/" + long(256) + "/name": {bad, bad},
	} {
		query := "/v1/files?path=" + url.QueryEscape(path)
		status, answer := call(t, client, "GET", f.url(query), "")
		if want.get >= 0 && status != want.get || strings.Contains(answer, string(secret)) && path != "in-root" || strings.Contains(answer, f.dir) && !strings.Contains(path, f.dir) {
			t.Errorf("GET %q: %d %s", path, status, answer)
		}
		if want.put < 0 {
			continue
		}
		if status, answer := call(t, client, "PUT", f.url(query), "written"); status != want.put {
			t.Errorf("PUT %q: %d %s", path, status, answer)
		}
		if status, answer := call(t, client, "PUT", f.url(query+"&overwrite=perhaps"), "written"); status != bad && status != refused {
			t.Errorf("PUT %q, overwrite=perhaps: %d %s", path, status, answer)
		}
		if strings.Contains(path, "out-folder") || want.put != http.StatusConflict {
			if status, answer := call(t, client, "PUT", f.url(query+"&overwrite=true"), "written"); status != want.put {
				t.Errorf("PUT %q to overwrite: %d %s", path, status, answer)
			}
		}
	}
	for _, path := range []string{"device"} {
		if status, answer := call(t, client, "GET", f.url("/v1/files?path="+path), ""); status != bad {
			t.Errorf("GET %q: %d %s", path, status, answer)
		}
	}
	// A link is replaced, not followed.
	must(t, f.operator(t).WriteFile(t.Context(), "out-absolute", strings.NewReader("written"), 7, true))
	if after := f.files(t, f.dir); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("files before\n%q\nafter\n%q", before, after)
	}
	if content, err := os.ReadFile(outside); err != nil || !bytes.Equal(content, secret) {
		t.Errorf("the file outside is %q now: %v", content, err)
	}
	if content, err := os.ReadFile(f.inRoot("/home/ubuntu/out-absolute")); err != nil || string(content) != "written" {
		t.Errorf("the file inside is %q: %v", content, err)
	}
	if log := f.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("refusals are the agent's errors:\n%s", log)
	}
}

func long(n int) string { return strings.Repeat("x", n) }

func TestUploads(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	f.serve(t, a)
	ctx, client := t.Context(), f.operator(t)
	content := bytes.Repeat([]byte("0123456789"), 1<<19) // 5 MB, in more than one step
	put := func(path string, content []byte, overwrite bool) error {
		return client.WriteFile(ctx, path, bytes.NewReader(content), int64(len(content)), overwrite)
	}
	must(t, put("a/b/file", content, false))
	reader, size, err := client.ReadFile(ctx, "/home/ubuntu/a/b/file")
	must(t, err)
	got, err := io.ReadAll(reader)
	must(t, errors.Join(err, reader.Close()))
	if size != int64(len(content)) || !bytes.Equal(got, content) {
		t.Errorf("%d bytes come back as %d, announced %d", len(content), len(got), size)
	}
	err = put("a/b/file", []byte("other"), false)
	if status, is := errors.AsType[*api.StatusError](err); !is || status.Code != http.StatusConflict || err.Error() != `open "/home/ubuntu/a/b/file" on unit "etcd/0": file exists` {
		t.Errorf("write it again: %v", err)
	}
	if now, err := os.ReadFile(f.inRoot("/home/ubuntu/a/b/file")); err != nil || !bytes.Equal(now, content) {
		t.Errorf("it was changed: %v", err)
	}
	must(t, put("a/b/file", []byte("other"), true))
	must(t, put("new", []byte("new"), true))
	must(t, put("empty", nil, false))
	for path, want := range map[string]string{"/home/ubuntu/a/b/file": "other", "/home/ubuntu/new": "new", "/home/ubuntu/empty": ""} {
		now, err := os.ReadFile(f.inRoot(path))
		info, statErr := os.Stat(f.inRoot(path))
		must(t, errors.Join(err, statErr))
		if string(now) != want || info.Mode() != 0o600 {
			t.Errorf("%q holds %.20q, mode %s", path, now, info.Mode())
		}
	}
	if info, err := os.Stat(f.inRoot("/home/ubuntu/a")); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Errorf("folder: %v, %v", info.Mode(), err)
	}
	before := f.files(t, f.dir)
	// Of two at once, one gets the name.
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() { results <- put("race", []byte{byte(i)}, false) }()
	}
	won := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			won++
		case !strings.Contains(err.Error(), "file exists"):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d callers made the same new file", won)
	}
	must(t, os.Remove(f.inRoot("/home/ubuntu/race")))
	t.Run("cut", func(t *testing.T) {
		for _, sent := range []int{0, 1, 1000, 3 << 20} {
			for _, chunked := range []bool{false, true} {
				f.cut(t, "/v1/files?path=cut", content[:sent], chunked)
				f.cut(t, "/v1/files?overwrite=true&path=new", content[:sent], chunked)
			}
		}
	})
	if after := f.files(t, f.dir); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("files before\n%q\nafter\n%q", before, after)
	}
	if now, err := os.ReadFile(f.inRoot("/home/ubuntu/new")); err != nil || string(now) != "new" {
		t.Errorf("a cut upload left %.20q: %v", now, err)
	}
	if log := f.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("log:\n%s", log)
	}
}

// cut sends a part of a body and breaks the connection off, and waits until the agent has dealt with that.
func (f *fixture) cut(t *testing.T, path string, part []byte, chunked bool) {
	t.Helper()
	conn, err := tls.Dial("tcp", f.config.Record.Agent, f.plain(t))
	must(t, err)
	length := fmt.Sprintf("Content-Length: %d", len(part)+1)
	if chunked {
		length = "Transfer-Encoding: chunked"
	}
	_, err = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", path, length)
	must(t, err)
	if chunked {
		_, err = fmt.Fprintf(conn, "%x\r\n", len(part)+1)
		must(t, err)
	}
	_, err = conn.Write(part)
	must(t, err)
	must(t, conn.CloseWrite())
	answer, _ := io.ReadAll(conn) // until the agent closes
	if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Errorf("a cut body is answered with %.100s", answer)
	}
	conn.Close()
}

// plain is an operator's TLS without HTTP/2.
func (f *fixture) plain(t *testing.T) *tls.Config {
	config := f.as(t, pki.Operator).Clone()
	config.ServerName, config.NextProtos = "127.0.0.1", []string{"http/1.1"}
	return config
}

// TestStalledTransfers leaves an agent alone in the middle of one.
func TestStalledTransfers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	a.bounds.idle = 300 * time.Millisecond
	f.serve(t, a)
	must(t, os.MkdirAll(f.inRoot("/home/ubuntu"), 0o700))
	large, err := os.Create(f.inRoot("/home/ubuntu/large"))
	must(t, err)
	must(t, errors.Join(large.Truncate(64<<20), large.Close())) // more than the buffers between the two hold
	for name, request := range map[string]string{
		"upload":        "PUT /v1/files?path=stalled HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
		"attach":        "PUT /v1/resources/snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
		"task":          "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"refused":       "PUT /v1/files?path=/etc/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
		"unknown route": "PUT /v3 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
	} {
		conn, err := tls.Dial("tcp", f.config.Record.Agent, f.plain(t))
		must(t, err)
		begun := time.Now()
		_, err = io.WriteString(conn, request)
		must(t, err)
		answer, _ := io.ReadAll(conn)
		if took := time.Since(begun); took > 20*time.Second || !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
			t.Errorf("%s: after %s: %.100s", name, took, answer)
		}
		conn.Close()
	}
	// A reader that stops reading: the agent closes, so that what it had sent ends early.
	conn, err := tls.Dial("tcp", f.config.Record.Agent, f.plain(t))
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /v1/files?path=large HTTP/1.1\r\nHost: x\r\n\r\n")
	must(t, err)
	eventually(t, func() error {
		if !strings.Contains(f.log.String(), `msg="send file" object=/home/ubuntu/large`) {
			return errors.New("the agent goes on sending to nobody")
		}
		return nil
	})
	if n, err := io.Copy(io.Discard, conn); n >= 64<<20 {
		t.Errorf("%d bytes: %v", n, err)
	}
	if got := f.files(t, f.config.StateDir); len(got) != 2 || !strings.Contains(got[0]+got[1], "journal.jsonl") {
		t.Errorf("files in the state folder: %q", got)
	}
	if got := f.files(t, f.inRoot("/")); len(got) != 1 {
		t.Errorf("files on the unit: %q", got)
	}
}

// TestSlowUploadGoesOn takes longer than an idle caller may, and is never idle.
func TestSlowUploadGoesOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	a.bounds.idle = 500 * time.Millisecond
	f.serve(t, a)
	reader, writer := io.Pipe()
	go func() {
		for range 30 {
			time.Sleep(50 * time.Millisecond)
			if _, err := writer.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	must(t, f.operator(t).WriteFile(t.Context(), "slow", reader, 30, false))
	if got, err := os.ReadFile(f.inRoot("/home/ubuntu/slow")); err != nil || len(got) != 30 {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

// TestLeftoversOfACrash opens an agent on what one that died in the middle of uploads has left.
func TestLeftoversOfACrash(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	uploads, deep := filepath.Join(f.config.StateDir, "uploads"), f.inRoot("/home/ubuntu/a/b")
	for _, folder := range []string{uploads, deep} {
		must(t, os.MkdirAll(folder, 0o700))
	}
	for file, content := range map[string]string{
		filepath.Join(deep, ".holdfast-1.part"):  "half",
		filepath.Join(uploads, "1"):              "home/ubuntu/a/b/.holdfast-1.part",
		filepath.Join(uploads, "2"):              "home/ubuntu/a/b/.holdfast-2.part", // it had not begun
		filepath.Join(uploads, ".3.tmp-4711"):    "home/ubuntu/a/b/.holdf",           // the record is what was cut off
		filepath.Join(uploads, "4"):              "home/ubuntu/a/b/keep",             // not one of ours
		filepath.Join(uploads, "5"):              "",
		filepath.Join(deep, "keep"):              "keep",
		filepath.Join(deep, ".holdfast-9.part"):  "of somebody else", // nothing says that it is ours
		filepath.Join(deep, ".holdfast-x.party"): "of somebody else",
	} {
		must(t, os.WriteFile(file, []byte(content), 0o600))
	}
	must(t, f.open(t).Close())
	want := []string{"/home/ubuntu/a/b/.holdfast-9.part", "/home/ubuntu/a/b/.holdfast-x.party", "/home/ubuntu/a/b/keep"}
	if got := f.files(t, f.inRoot("/")); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("files on the unit %q, want %q", got, want)
	}
	if got := f.files(t, uploads); len(got) != 0 {
		t.Errorf("records %q", got)
	}
	// A record that leads out of the unit removes nothing there.
	outside := filepath.Join(f.dir, ".holdfast-6.part")
	must(t, os.WriteFile(outside, nil, 0o600))
	must(t, durable.WriteFile(filepath.Join(uploads, "6"), []byte("../../.holdfast-6.part"), 0o600))
	if a, err := Open(f.config, Options{Program: program(t), Logger: slog.New(slog.DiscardHandler)}); err == nil {
		a.Close()
		t.Error("a record that leads out of the unit is taken")
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}
