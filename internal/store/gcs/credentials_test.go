package gcs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/networktest"
	"github.com/holdfast-project/holdfast/internal/store/storetest"
)

// google answers for the service of tokens and for the store: it takes the last token that it gave.
type google struct {
	*httptest.Server

	mu     sync.Mutex
	valid  string // the token
	given  int    // how many
	refuse func(w http.ResponseWriter) bool
	lasts  int // seconds that a token is said to last
	// answer is what the store does with a request whose token is good.
	answer func(w http.ResponseWriter, r *http.Request)
	asked  []string // the forms of requests for tokens
}

func newGoogle(t *testing.T) *google {
	g := &google{lasts: 3600, answer: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"size": "1", "generation": "1"}`)
	}}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if r.URL.Path != "/token" {
			if r.Header.Get("Authorization") != "Bearer "+g.valid {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = fmt.Fprintf(w, `{"error": {"message": "Invalid Credentials: %s"}}`, r.Header.Get("Authorization"))
				return
			}
			g.answer(w, r)
			return
		}
		_ = r.ParseForm()
		g.asked = append(g.asked, r.Form.Encode())
		if g.refuse != nil && g.refuse(w) {
			return
		}
		g.given++
		g.valid = fmt.Sprintf("token-%d-%s", g.given, rand.Text())
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": g.valid, "token_type": "Bearer", "expires_in": g.lasts})
	}))
	t.Cleanup(g.Close)
	return g
}

// user writes a credentials file as gcloud does.
func (g *google) user(t *testing.T) string {
	return write(t, fmt.Sprintf(`{"type": "authorized_user", "client_id": "id", "client_secret": "hunter2", "refresh_token": "hunter3", "token_uri": %q}`, g.URL+"/token"))
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (g *google) open(t *testing.T, file string) *gcs.Store {
	o := gcs.Options{Bucket: "bucket", Endpoint: g.URL, CredentialsFile: file, ChunkSize: 256 << 10}
	o.Retry.Base, o.Retry.Max = time.Millisecond, time.Millisecond
	return open(t, o)
}

func stat(t *testing.T, s *gcs.Store) error {
	t.Helper()
	_, err := s.Stat(t.Context(), "a")
	networktest.WantDiscreet(t, err, secrets("hunter", "token-")...)
	return err
}

// TestTokens gets a token once, and another when it ends or is withdrawn.
func TestTokens(t *testing.T) {
	g := newGoogle(t)
	s := g.open(t, g.user(t))
	given := func(want int) {
		t.Helper()
		if err := stat(t, s); err != nil {
			t.Error(err)
		}
		if g.given != want {
			t.Errorf("%d tokens were given, want %d", g.given, want)
		}
	}
	given(1)
	given(1)
	g.valid = "withdrawn"
	given(2)
	given(2)
	g.valid, g.lasts = "withdrawn again", 30
	given(3)
	given(4) // it is near its end
	if !strings.Contains(g.asked[0], "refresh_token=hunter3") {
		t.Errorf("asked: %q", g.asked)
	}
	// Many at once share one.
	s = g.open(t, g.user(t))
	g.lasts = 3600
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := s.Stat(t.Context(), "a"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if g.given != 5 {
		t.Errorf("%d tokens were given", g.given)
	}
}

// TestServiceAccount signs with the key of a file.
func TestServiceAccount(t *testing.T) {
	g := newGoogle(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "backup@project.example", "private_key_id": "1", "token_uri": g.URL + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, string(text))
	if err := stat(t, g.open(t, file)); err != nil {
		t.Error(err)
	}
	if len(g.asked) != 1 || !strings.Contains(g.asked[0], "assertion=") {
		t.Errorf("asked: %q", g.asked)
	}
	// So it is found where Google's own tools look: by the variable. The store itself cannot be reached.
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	elsewhere := gcs.Options{Bucket: "bucket", Endpoint: "https://0.0.0.0:1"}
	if _, err := open(t, elsewhere).Stat(t.Context(), "a"); err == nil || len(g.asked) != 2 {
		t.Errorf("%v, asked %d times", err, len(g.asked))
	}
	// A server of this machine is an emulator, and asked without.
	if err := stat(t, g.open(t, "")); !errors.Is(err, store.ErrDenied) || len(g.asked) != 2 {
		t.Errorf("%v, asked %d times", err, len(g.asked))
	}
}

// TestNoToken tells why there is none, without what is secret.
func TestNoToken(t *testing.T) {
	g := newGoogle(t)
	for name, tt := range map[string]struct {
		file   string
		status int
		body   string
		want   error // nil when another try may help
		text   string
	}{
		"no file":        {file: "/no/such/file", want: store.ErrDenied, text: "/no/such/file"},
		"no JSON":        {file: write(t, "hunter2"), want: store.ErrDenied, text: "it is not JSON"},
		"no type":        {file: write(t, `{"private_key": "hunter2"}`), want: store.ErrDenied, text: "it holds no credentials"},
		"of a program":   {file: write(t, `{"installed": {"client_secret": "hunter2", "redirect_uris": ["x"]}}`), want: store.ErrDenied, text: "it holds no credentials"},
		"strange type":   {file: write(t, `{"type": "strange", "private_key": "hunter2"}`), want: store.ErrDenied, text: "strange"},
		"no key":         {file: write(t, `{"type": "service_account", "private_key": "hunter2"}`), want: store.ErrDenied, text: "find credentials"},
		"revoked":        {status: 400, body: `{"error": "invalid_grant", "error_description": "Token has been revoked."}`, want: store.ErrDenied, text: "invalid_grant Token has been revoked. (400)"},
		"echo":           {status: 401, body: `{"error": "invalid_client", "error_description": "client_secret=hunter2"}`, want: store.ErrDenied, text: "not shown"},
		"not in form":    {status: 403, body: `no refresh_token hunter3`, want: store.ErrDenied, text: "(403)"},
		"down":           {status: 503, body: "<html>hunter2", text: "(503)"},
		"busy":           {status: 429, body: "hunter2", text: "(429)"},
		"empty":          {status: 200, body: "{}", want: store.ErrDenied, text: "find credentials"},
		"cannot reach":   {file: write(t, `{"type": "authorized_user", "refresh_token": "hunter3", "token_uri": "http://127.0.0.1:1/hunter4"}`), text: "connection refused"},
		"ADC of program": {file: "ADC", want: store.ErrDenied, text: "it holds no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			g.refuse = func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
				return true
			}
			file := tt.file
			if file == "" {
				file = g.user(t)
			}
			s := g.open(t, file)
			if file == "ADC" {
				t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", write(t, `{"installed": {"client_secret": "hunter2", "redirect_uris": ["x"]}}`))
				s = open(t, gcs.Options{Bucket: "bucket", Endpoint: "https://0.0.0.0:1"})
			}
			err := stat(t, s)
			if err == nil || errors.Is(err, store.ErrDenied) != (tt.want == store.ErrDenied) || errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
	g.refuse = func(http.ResponseWriter) bool { return false }
	if err := stat(t, g.open(t, g.user(t))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestFileIsReplaced goes on with the next token after a credentials file was away for a moment.
func TestFileIsReplaced(t *testing.T) {
	g := newGoogle(t)
	file := g.user(t)
	s := g.open(t, file)
	if err := stat(t, s); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.valid = "withdrawn"
	if err := stat(t, s); err == nil || errors.Is(err, store.ErrDenied) {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(text, []byte("hunter3"), []byte("hunter4")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := stat(t, s); err != nil {
		t.Error(err)
	}
	if last := g.asked[len(g.asked)-1]; !strings.Contains(last, "hunter4") {
		t.Errorf("asked: %s", last)
	}
}

// TestSecretsAreNotRepeated has a server that answers with all it was sent.
func TestSecretsAreNotRepeated(t *testing.T) {
	g := newGoogle(t)
	s := g.open(t, g.user(t))
	const id = "AbCdEf-hunter5"
	for _, kind := range []string{"application/json", "text/plain; charset=utf-8", "text/html"} {
		echo := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(http.StatusForbidden)
			text := "you sent " + g.valid + " and " + r.URL.Query().Get("upload_id") + "."
			if kind == "application/json" {
				text = fmt.Sprintf(`{"error": {"message": %q, "errors": [{"reason": %q}]}}`, text, g.valid)
			}
			_, _ = io.WriteString(w, text)
		}
		for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
			"any": echo,
			"session": func(w http.ResponseWriter, r *http.Request) {
				switch {
				case isBegin(r):
					w.Header().Set("Location", "https://elsewhere.invalid/upload/x?uploadType=resumable&upload_id="+id)
				case r.URL.Query().Get("upload_id") == id:
					echo(w, r)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			},
			"cut session": func(w http.ResponseWriter, r *http.Request) {
				switch {
				case isBegin(r):
					w.Header().Set("Location", "/upload/x?uploadType=resumable&upload_id="+id)
				case r.URL.Query().Get("upload_id") == id:
					panic(http.ErrAbortHandler)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			},
		} {
			g.answer = answer
			for _, size := range []int{10, 1 << 20} {
				_, err := s.Put(t.Context(), "a", bytes.NewReader(storetest.BytesOf(size)), store.PutOptions{})
				networktest.WantDiscreet(t, err, secrets("hunter", "token-")...)
				if err == nil {
					t.Errorf("%s, %s: put of %d bytes works", kind, name, size)
				}
			}
			if err := stat(t, s); err == nil {
				t.Errorf("%s, %s: stat works", kind, name)
			}
		}
	}
}

// TestTokenTime ends with the context of the call that needs a token.
func TestTokenTime(t *testing.T) {
	hang := make(chan struct{})
	g := newGoogle(t)
	defer close(hang)
	asked := make(chan struct{})
	g.refuse = func(http.ResponseWriter) bool {
		close(asked)
		<-hang
		return true
	}
	enough := errors.New("that is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(enough)
	}()
	if _, err := g.open(t, g.user(t)).Stat(ctx, "a"); !errors.Is(err, enough) {
		t.Errorf("stat: %v", err)
	}
}
