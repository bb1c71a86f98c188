package azure_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/azuretest"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
)

// TestReads lets reads break off: store.Retry takes them up again.
func TestReads(t *testing.T) {
	server := azuretest.Start(t)
	w := newWorld(t, server)
	want := content(3 << 20)
	for _, name := range []string{"a/1", "a/2", "a/3"} {
		if _, err := w.direct.Put(t.Context(), name, bytes.NewReader(want), store.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s := store.Retry(w.store, store.RetryOptions{Base: time.Millisecond, Max: time.Millisecond})
	isObject := func(r *http.Request) bool { return isGet(r) && strings.HasSuffix(r.URL.Path, "/a/2") }
	isList := func(r *http.Request) bool { return r.URL.Query().Get("comp") == "list" }
	w.proxy.Add(
		faultstore.HTTPFault{Match: isObject, Status: 503, Body: busy},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 1 << 20},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 0},
		faultstore.HTTPFault{Match: isHead, Do: faultstore.LoseAnswer},
		faultstore.HTTPFault{Match: isList, Do: faultstore.CutAnswer, Bytes: 100},
	)
	for _, part := range [][2]int64{{0, -1}, {1000, 2 << 20}} {
		body, err := s.Open(t.Context(), "a/2", part[0], part[1])
		if err != nil {
			t.Fatal(err)
		}
		end := int64(len(want))
		if part[1] >= 0 {
			end = part[0] + part[1]
		}
		got, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, want[part[0]:end]) {
			t.Errorf("%v: %d bytes, %v", part, len(got), err)
		}
	}
	if object, err := s.Stat(t.Context(), "a/2"); err != nil || object.Size != int64(len(want)) {
		t.Errorf("stat: %v, %v", object, err)
	}
	names := 0
	for _, err := range s.List(t.Context(), "a/", "") {
		if err != nil {
			t.Fatal(err)
		}
		names++
	}
	if names != 3 {
		t.Errorf("%d names", names)
	}
	// The service is told where to begin.
	for object, err := range s.List(t.Context(), "a/", "a/2") {
		if err != nil || object.Name != "a/3" {
			t.Errorf("after a/2: %v, %v", object, err)
		}
	}
	if requests := w.proxy.Requests(); !strings.Contains(requests[len(requests)-1], "startFrom=a%2F2") {
		t.Errorf("the last request is %s", requests[len(requests)-1])
	}
	// Without store.Retry the error shows, and where it was; and a range that is not the one asked for is not taken.
	w.proxy.Add(faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 1 << 20})
	body, err := w.store.Open(t.Context(), "a/2", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	w.wantDiscreet(t, err)
	if err := errors.Join(err, body.Close()); err == nil || !strings.Contains(err.Error(), `read object "a/2"`) || !bytes.Equal(got, want[:len(got)]) {
		t.Errorf("cut: %d bytes, %v", len(got), err)
	}
	w.proxy.Add(faultstore.HTTPFault{Match: isObject, Do: faultstore.Change, Change: func(r *http.Response) { r.Header.Del("Content-Range") }})
	if _, err := w.store.Open(t.Context(), "a/2", 10, 10); !errors.Is(err, store.ErrFinal) {
		t.Errorf("no range: %v", err)
	}
	for _, from := range []int64{3 << 20, 4 << 20} {
		body, err := w.store.Open(t.Context(), "a/2", from, 10)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || len(got) > 0 {
			t.Errorf("beyond the end: %d bytes, %v", len(got), err)
		}
	}
}

// TestStall gives up connections on which nothing moves, and a Put whose time is up.
func TestStall(t *testing.T) {
	server := azuretest.Start(t)
	for name, match := range map[string]func(*http.Request) bool{"put": isPut, "block": isBlock, "commit": isCommit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, server)
			size := 10
			if name != "put" {
				size = large
			}
			w.proxy.Add(faultstore.HTTPFault{Match: match, Do: faultstore.Hang})
			s := w.through(t, func(o *azure.Options) { o.Stall = 2 * time.Second })
			if _, err := s.Put(t.Context(), "stalled", bytes.NewReader(content(size)), store.PutOptions{}); err != nil {
				t.Errorf("put: %v", err)
			}
			w.wantObject(t, "stalled", content(size))

			enough := errors.New("that is enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			w.proxy.Add(faultstore.HTTPFault{Match: match, Do: faultstore.Hang, Struck: func() { cancel(enough) }})
			_, err := w.store.Put(ctx, "cancelled", bytes.NewReader(content(size)), store.PutOptions{})
			if !errors.Is(err, enough) {
				t.Errorf("cancelled put: %v", err)
			}
			if _, err := w.direct.Stat(t.Context(), "cancelled"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("stat: %v", err)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestMemory reads no more of an endless content than three blocks and a byte while the server takes nothing.
func TestMemory(t *testing.T) {
	w := newWorld(t, azuretest.Start(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var read atomic.Int64
	underWay := make(chan struct{}, 10)
	w.proxy.Add(faultstore.HTTPFault{Match: isBlock, Times: -1, Do: faultstore.Hang, Struck: func() { underWay <- struct{}{} }})
	done := make(chan error)
	go func() {
		_, err := w.store.Put(ctx, "endless", readerFunc(func(p []byte) (int, error) {
			read.Add(int64(len(p)))
			return len(p), nil
		}), store.PutOptions{})
		done <- err
	}()
	for range 3 {
		<-underWay
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if most := int64(3*(4<<20) + 1); read.Load() > most {
		t.Errorf("%d bytes were read, want %d at most", read.Load(), most)
	}
}

// TestMemoryOfLargePut puts 300 MB, and looks all along at what is in memory.
func TestMemoryOfLargePut(t *testing.T) {
	w := newWorld(t, azuretest.Start(t))
	const size = 300_000_000
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, allocated, most := m.HeapAlloc, m.TotalAlloc, uint64(0)
	left, next := size, size
	_, err := w.direct.Put(t.Context(), "large", readerFunc(func(p []byte) (int, error) {
		if left <= next {
			next -= 10_000_000
			runtime.GC()
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
		if left == 0 {
			return 0, io.EOF
		}
		n := min(len(p), left)
		left -= n
		return n, nil
	}), store.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Three blocks of 4 MiB, which are made once and used again, and little beside them.
	if held := int64(most) - int64(before); held > 20<<20 {
		t.Errorf("%d bytes were held", held)
	}
	if allocated = m.TotalAlloc - allocated; allocated > 40<<20 {
		t.Errorf("%d bytes were allocated", allocated)
	}
	if object, err := w.direct.Stat(t.Context(), "large"); err != nil || object.Size != size {
		t.Errorf("stat: %+v, %v", object, err)
	}
}

// TestTLS trusts the certificate of a file, and none without.
func TestTLS(t *testing.T) {
	server := azuretest.Start(t)
	proxy := faultstore.NewTLSProxy(t, server.URL)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, proxy.CA, 0o600); err != nil {
		t.Fatal(err)
	}
	o := server.Options(server.Container(t))
	o.Endpoint, o.CAFile, o.BlockSize = proxy.URL+"/"+server.Account, ca, 0
	if _, err := open(t, o).Put(t.Context(), "a", bytes.NewReader(content(large)), store.PutOptions{}); err != nil { // two blocks of the usual size
		t.Fatal(err)
	}
	o.CAFile = ""
	if _, err := open(t, o).Stat(t.Context(), "a"); !errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: %v", err)
	}
	o.Endpoint = strings.Replace(server.Endpoint(), "http:", "https:", 1)
	if _, err := open(t, o).Stat(t.Context(), "a"); !errors.Is(err, store.ErrFinal) {
		t.Errorf("no TLS: %v", err)
	}
}

// TestCredentialsAtTheServer asks with each kind of credentials that Azurite knows, and with wrong ones.
func TestCredentialsAtTheServer(t *testing.T) {
	server := azuretest.Start(t)
	name := server.Container(t)
	expiry := time.Now().Add(time.Hour)
	signed, err := server.Client(t, name).GetSASURL(sas.ContainerPermissions{Read: true, List: true, Create: true, Write: true, Delete: true}, expiry, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(signed, "?")
	readOnly, err := server.Client(t, name).GetSASURL(sas.ContainerPermissions{Read: true}, expiry, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, readToken, _ := strings.Cut(readOnly, "?")
	connection := "DefaultEndpointsProtocol=http;AccountName=" + server.Account + ";BlobEndpoint=" + server.Endpoint() + ";"
	for what, tt := range map[string]struct {
		c    azure.Credentials
		want error
	}{
		"SAS token":                      {azure.Credentials{SASToken: "?" + token}, nil},
		"SAS token for reads":            {azure.Credentials{SASToken: readToken}, store.ErrDenied},
		"SAS token with wrong signature": {azure.Credentials{SASToken: strings.Replace(token, "sig=", "sig=AAAA", 1)}, store.ErrDenied},
		"wrong key":                      {azure.Credentials{AccountKey: "aHVudGVyMg=="}, store.ErrDenied},
		"key in environment":             {environment{"AZURE_STORAGE_KEY": server.Key, "AZURE_STORAGE_ACCOUNT": server.Account}.credentials(), nil},
		"token in environment":           {environment{"AZURE_STORAGE_SAS_TOKEN": token}.credentials(), nil},
		"connection string with key":     {environment{"AZURE_STORAGE_CONNECTION_STRING": connection + "AccountKey=" + server.Key}.credentials(), nil},
		"connection string with token":   {environment{"AZURE_STORAGE_CONNECTION_STRING": connection + "SharedAccessSignature=" + token}.credentials(), nil},
	} {
		o := server.Options(name)
		o.Credentials = tt.c
		if strings.HasPrefix(what, "connection") {
			o.Account, o.Endpoint = "", ""
		}
		object := "of/" + strings.ReplaceAll(what, " ", "-")
		for _, size := range []int{10, large} {
			_, err := open(t, o).Put(t.Context(), object+string(rune('a'+size%7)), bytes.NewReader(content(size)), store.PutOptions{})
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", what, err, tt.want)
			}
			if err != nil {
				for _, secret := range []string{server.Key, token, readToken, "sig=", "http:", "aHVudGVyMg"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%s: the error shows %q: %v", what, secret, err)
					}
				}
			}
		}
	}
	// A container that is missing is no reason to wait.
	missing := open(t, server.Options("no-such-container"))
	if _, err := missing.Put(t.Context(), "a", strings.NewReader("x"), store.PutOptions{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("put into no container: %v", err)
	}
	for _, err := range missing.List(t.Context(), "", "") {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("list no container: %v", err)
		}
	}
	if err := missing.Delete(t.Context(), "a"); err != nil {
		t.Errorf("delete in no container: %v", err)
	}
}

// environment are variables.
type environment map[string]string

func (e environment) credentials() azure.Credentials {
	return azure.Credentials{Getenv: func(name string) string { return e[name] }}
}
