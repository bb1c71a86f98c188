package azure_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/azuretest"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
	"github.com/holdfast-project/holdfast/internal/store/networktest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// TestReads lets reads break off: store.Retry takes them up again.
func TestReads(t *testing.T) {
	w := newWorld(t, azuretest.Start(t))
	isObject := func(r *http.Request) bool { return isGet(r) && strings.HasSuffix(r.URL.Path, "/a/2") }
	isList := func(r *http.Request) bool { return r.URL.Query().Get("comp") == "list" }
	w.Reads(t, isObject,
		faultstore.HTTPFault{Match: isObject, Status: 503, Body: busy},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 1 << 20},
		faultstore.HTTPFault{Match: isObject, Do: faultstore.CutAnswer, Bytes: 0},
		faultstore.HTTPFault{Match: isHead, Do: faultstore.LoseAnswer},
		faultstore.HTTPFault{Match: isList, Do: faultstore.CutAnswer, Bytes: 100},
	)
	w.WrongRanges(t, isObject, "", "bytes 11-20/3145728")
	// The service is told where to begin.
	for object, err := range w.Store.List(t.Context(), "a/", "a/2") {
		if err != nil || object.Name != "a/3" {
			t.Errorf("after a/2: %v, %v", object, err)
		}
	}
	if requests := w.Proxy.Requests(); !strings.Contains(requests[len(requests)-1], "startFrom=a%2F2") {
		t.Errorf("the last request is %s", requests[len(requests)-1])
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
			w.Stall(t, w.through(t, func(o *azure.Options) { o.Stall = 2 * time.Second }), size, match)
		})
	}
}

// TestMemory reads no more of an endless content than three blocks and a byte while the server takes nothing.
func TestMemory(t *testing.T) {
	newWorld(t, azuretest.Start(t)).ReadAhead(t, isBlock, 3, 3*(4<<20)+1)
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
	_, err := w.Direct.Put(t.Context(), "large", storetest.ReaderFunc(func(p []byte) (int, error) {
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
	if object, err := w.Direct.Stat(t.Context(), "large"); err != nil || object.Size != size {
		t.Errorf("stat: %+v, %v", object, err)
	}
}

// TestTLS trusts the certificate of a file, and none without.
func TestTLS(t *testing.T) {
	server := azuretest.Start(t)
	o := server.Options(server.Container(t))
	o.BlockSize = 0
	// Two blocks of the usual size.
	networktest.TLS(t, server.URL, large, func(url, caFile string) store.Store {
		o.Endpoint, o.CAFile = url+"/"+server.Account, caFile
		return open(t, o)
	})
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
			_, err := open(t, o).Put(t.Context(), object+string(rune('a'+size%7)), bytes.NewReader(storetest.BytesOf(size)), store.PutOptions{})
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
