package azure

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/holdfast-project/holdfast/internal/store"
)

const someKey = "aHVudGVyMg==" // hunter2

func TestNewRefuses(t *testing.T) {
	env := func(pairs ...string) Credentials {
		return Credentials{Getenv: func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}}
	}
	for name, change := range map[string]func(*Options){
		"no container":                 func(o *Options) { o.Container = "" },
		"short container":              func(o *Options) { o.Container = "ab" },
		"strange container":            func(o *Options) { o.Container = "a--b" },
		"long container":               func(o *Options) { o.Container = strings.Repeat("x", 64) },
		"strange account":              func(o *Options) { o.Account = "some.example" },
		"no account":                   func(o *Options) { o.Account = "" },
		"http abroad":                  func(o *Options) { o.Endpoint = "http://blob.example" },
		"http to this by name":         func(o *Options) { o.Endpoint = "http://127.0.0.1.example" },
		"password":                     func(o *Options) { o.Endpoint = "https://user:hunter2@blob.example" },
		"path":                         func(o *Options) { o.Endpoint = "https://blob.example/some/path" },
		"token in endpoint":            func(o *Options) { o.Endpoint = "https://blob.example?sig=hunter2" },
		"no scheme":                    func(o *Options) { o.Endpoint = "blob.example:9000" },
		"other scheme":                 func(o *Options) { o.Endpoint = "ftp://blob.example" },
		"no CA file":                   func(o *Options) { o.CAFile = "missing.pem" },
		"no CA in file":                func(o *Options) { o.CAFile = "azure_test.go" },
		"strange prefix":               func(o *Options) { o.Prefix = "a//b" },
		"prefix with slash":            func(o *Options) { o.Prefix = "a/" },
		"small blocks":                 func(o *Options) { o.BlockSize = 1 << 10 },
		"key and token":                func(o *Options) { o.Credentials = Credentials{AccountKey: someKey, SASToken: "sig=hunter2"} },
		"key not in base64":            func(o *Options) { o.Credentials.AccountKey = "hunter2!" },
		"no token":                     func(o *Options) { o.Credentials = Credentials{SASToken: "https://x.example/?sv=1&sig=hunter2 "} },
		"token unsigned":               func(o *Options) { o.Credentials = Credentials{SASToken: "sv=hunter2"} },
		"token of an identity by http": func(o *Options) { o.Endpoint, o.Credentials = "http://127.0.0.1:1", Credentials{} },
		"other account": func(o *Options) {
			o.Credentials = env(envAccount, "other", envKey, someKey)
		},
		"connection string of another": func(o *Options) {
			o.Credentials = env(envConnection, "AccountName=other;AccountKey="+someKey)
		},
		"connection string without key": func(o *Options) { o.Credentials = env(envConnection, "AccountName=account") },
		"no connection string":          func(o *Options) { o.Credentials = env(envConnection, "hunter2") },
		"connection by http": func(o *Options) {
			o.Credentials = env(envConnection, "DefaultEndpointsProtocol=http;EndpointSuffix=some.example;AccountKey="+someKey)
		},
		"password in connection string": func(o *Options) {
			o.Credentials = env(envConnection, "BlobEndpoint=https://u:hunter2@some.example;AccountKey="+someKey)
		},
	} {
		o := Options{Account: "account", Container: "container", Credentials: Credentials{AccountKey: someKey}}
		change(&o)
		_, err := New(o)
		if err == nil || !errors.Is(err, store.ErrFinal) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), someKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, endpoint := range []string{"", "https://blob.example", "https://blob.example:9000/", "http://127.0.0.1:7070/account", "http://localhost:1", "http://[::1]:1"} {
		if _, err := New(Options{Account: "account", Container: "container", Endpoint: endpoint, Credentials: Credentials{AccountKey: someKey}}); err != nil {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

func TestCredentialsAreNotShown(t *testing.T) {
	o := Options{Container: "container", Credentials: Credentials{AccountKey: "hunter2", SASToken: "hunter3"}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, o); strings.Contains(text, "hunter") {
			t.Errorf("%s shows keys: %s", format, text)
		}
	}
}

// TestFind takes credentials in their order, and the account and endpoint that come with them.
func TestFind(t *testing.T) {
	all := map[string]string{envAccount: "inenv", envKey: "key", envSAS: "sas", envConnection: "AccountName=conn;AccountKey=connkey==;EndpointSuffix=core.example"}
	without := func(names ...string) map[string]string {
		left := map[string]string{}
		for name, value := range all {
			left[name] = value
		}
		for _, name := range names {
			delete(left, name)
		}
		return left
	}
	for name, tt := range map[string]struct {
		env  map[string]string
		o    Options
		want identity
	}{
		"given":             {all, Options{Account: "given", Credentials: Credentials{AccountKey: "k"}}, identity{"given", "https://given.blob.core.windows.net", "k", ""}},
		"given token":       {all, Options{Account: "given", Credentials: Credentials{SASToken: "s"}}, identity{"given", "https://given.blob.core.windows.net", "", "s"}},
		"connection string": {all, Options{}, identity{"conn", "https://conn.blob.core.example", "connkey==", ""}},
		"its endpoint": {map[string]string{envConnection: "BlobEndpoint=http://127.0.0.1:1/x;SharedAccessSignature=sv=1&sig=2"}, Options{},
			identity{"", "http://127.0.0.1:1/x", "", "sv=1&sig=2"}},
		"key":             {without(envConnection), Options{}, identity{"inenv", "https://inenv.blob.core.windows.net", "key", ""}},
		"token":           {without(envConnection, envKey), Options{Endpoint: "https://x.example"}, identity{"inenv", "https://x.example", "", "sas"}},
		"only an account": {without(envConnection, envKey, envSAS), Options{Account: "given"}, identity{"given", "https://given.blob.core.windows.net", "", ""}},
		"nothing":         {nil, Options{Endpoint: "https://x.example"}, identity{"", "https://x.example", "", ""}},
	} {
		tt.o.Credentials.Getenv = func(name string) string { return tt.env[name] }
		if got, err := find(tt.o); got != tt.want || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
	}
}

// TestCredentialsFile reads each of the three things that a file may hold, and repeats nothing of what it refuses.
func TestCredentialsFile(t *testing.T) {
	env := func(string) string { return "hunter2;" } // which a file comes before
	file := func(text string, mode os.FileMode) Options {
		t.Helper()
		name := filepath.Join(t.TempDir(), "credentials")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return Options{Account: "given", Container: "container", Credentials: Credentials{File: name, Getenv: env}}
	}
	const usual, sas = "https://given.blob.core.windows.net", "sv=2026&sig=a%2Fb%3D"
	for text, want := range map[string]identity{
		someKey + "\n": {"given", usual, someKey, ""},
		"AccountName=given;AccountKey=" + someKey + ";EndpointSuffix=core.example\n": {"given", "https://given.blob.core.example", someKey, ""},
		sas + "\n": {"given", usual, "", sas},
		"?" + sas:  {"given", usual, "", "?" + sas},
	} {
		o := file(text, 0o400)
		if got, err := find(o); got != want || err != nil {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
		if _, err := New(o); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"others may read it": {file(someKey, 0o640), "chmod 600"},
		"nothing of it":      {file("hunter2", 0o600), "holds no connection string"},
		"empty":              {file("", 0o600), "holds no connection string"},
		"another account":    {file("AccountName=other;AccountKey="+someKey, 0o600), `for account "other", not for "given"`},
		"no key":             {file("AccountName=given;hunter2", 0o600), "not NAME=VALUE"},
		"no file":            {Options{Account: "given", Container: "container", Credentials: Credentials{File: "/none/hunter"}}, "no such file"},
		"a folder":           {Options{Account: "given", Container: "container", Credentials: Credentials{File: t.TempDir()}}, "no file of credentials"},
		"beside a key":       {Options{Account: "given", Container: "container", Credentials: Credentials{File: "/x", AccountKey: someKey}}, "not several"},
	} {
		_, err := New(tt.o)
		if !errors.Is(err, store.ErrFinal) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), someKey) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
}

// TestNoCredentials asks azidentity where there is nothing to find, without a call to the network.
func TestNoCredentials(t *testing.T) {
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
		t.Setenv(name, "")
	}
	s, err := New(Options{Account: "account", Container: "container"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "find credentials: ") {
		t.Errorf("stat: %v", err)
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
	if _, err := New(Options{Account: "account", Container: "container"}); !errors.Is(err, store.ErrFinal) {
		t.Errorf("unknown kind: %v", err)
	}
}

// tokens gives what it has, one after the other.
type tokens []any

func (s *tokens) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	next := (*s)[0]
	*s = (*s)[1:]
	if err, is := next.(error); is {
		return azcore.AccessToken{}, err
	}
	return azcore.AccessToken{Token: next.(string), ExpiresOn: time.Now().Add(-time.Second)}, nil
}

// TestTokens asks with tokens, whose service fails before the first and after it.
func TestTokens(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer hunter2" {
			w.Header().Set("Content-Length", "3")
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Endpoint: server.URL, Account: "account", Container: "container", Credentials: Credentials{AccountKey: someKey}})
	if err != nil {
		t.Fatal(err)
	}
	failure := errors.New("POST https://login.example/tenant?secret=hunter3 says client_secret=hunter4 is wrong")
	who := identity{endpoint: server.URL}
	s.container, s.keys, err = who.client(address.JoinPath("container"), transport{server.Client().Transport.(*http.Transport)})
	if err != nil {
		t.Fatal(err)
	}
	s.keys.source = &tokens{failure, "hunter2", failure}
	stat := func() error {
		_, err := s.Stat(t.Context(), "a")
		if err != nil && (strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "login.example")) {
			t.Errorf("the error shows too much: %v", err)
		}
		return err
	}
	if err := stat(); !errors.Is(err, store.ErrDenied) {
		t.Errorf("no token: %v", err)
	}
	if err := stat(); err != nil {
		t.Errorf("with a token: %v", err)
	}
	if err := stat(); err == nil || errors.Is(err, store.ErrDenied) || errors.Is(err, store.ErrFinal) {
		t.Errorf("no new token: %v", err)
	}
	if got := s.keys.clean("we got hunter2"); got != "we got [key]" {
		t.Errorf("the token is shown: %s", got)
	}
}

// TestExplain sorts answers, and shows nothing of keys or control characters in them.
func TestExplain(t *testing.T) {
	s, err := New(Options{Account: "account", Container: "container", Credentials: Credentials{SASToken: "?sv=2026&sr=c&sig=hun%2Fter2%3D"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status  int
		code    string // in the header, as the answer to HEAD has it
		message string // in the body
		class   error  // nil for what may pass
		text    string
	}{
		{403, "AuthorizationFailure", "no", store.ErrDenied, "the store says AuthorizationFailure (403): no"},
		{403, "AuthenticationFailed", "no\nRequestId:1\nTime:2", store.ErrDenied, "the store says AuthenticationFailed (403): no"},
		{401, "NoAuthenticationInformation", "x", store.ErrDenied, ""},
		{400, "InvalidAuthenticationInfo", "x", store.ErrDenied, ""},
		{404, "ContainerNotFound", "none", store.ErrNotFound, "the store says ContainerNotFound (404): none"},
		{404, "", "", store.ErrNotFound, "the store says Not Found (404)"},
		{409, "BlobAlreadyExists", "x", store.ErrExists, ""},
		{412, "ConditionNotMet", "x", store.ErrExists, ""},
		{412, "", "", store.ErrExists, ""},
		{412, "LeaseIdMissing", "x", store.ErrFinal, ""},
		{409, "BlobImmutableDueToPolicy", "x", store.ErrFinal, ""},
		{409, "Strange", "x", nil, ""},
		{400, "Md5Mismatch", "x", nil, ""},
		{400, "InvalidBlockList", "x", nil, ""},
		{400, "InvalidHeaderValue", "x", store.ErrFinal, ""},
		{400, "UnsupportedHeader", "x", store.ErrUnsupported, ""},
		{501, "APINotImplemented", "x", store.ErrUnsupported, ""},
		{500, "OperationTimedOut", "x", nil, ""},
		{503, "ServerBusy", "x", nil, ""},
		{502, "", "", nil, "the store says Bad Gateway (502)"},
		{307, "", "", store.ErrFinal, ""},
		{403, "AuthenticationFailed", "Signature did not match. String to sign used was r", store.ErrDenied, "the store says AuthenticationFailed (403): [not shown: it repeats the request's signature]"},
		{403, "AuthenticationFailed", "no hun/ter2=\x7f with hun%2Fter2%3D at https://x.example/?sv=1", store.ErrDenied, "the store says AuthenticationFailed (403): no [key] with [key] at [URL]"},
		{400, "Long", strings.Repeat("ä", 1000), store.ErrFinal, "the store says Long (400): " + strings.Repeat("ä", 150) + "…"},
	} {
		body := ""
		if tt.message != "" {
			body = "\ufeff<Error><Code>Other</Code><Message>" + strings.ReplaceAll(tt.message, "&", "&amp;") + "</Message><AuthenticationErrorDetail>sig hunter</AuthenticationErrorDetail></Error>"
		}
		got := s.explain(t.Context(), &azcore.ResponseError{StatusCode: tt.status, ErrorCode: tt.code, RawResponse: &http.Response{Body: io.NopCloser(strings.NewReader(body))}})
		for _, class := range []error{store.ErrDenied, store.ErrNotFound, store.ErrExists, store.ErrUnsupported, store.ErrFinal} {
			if errors.Is(got, class) != (tt.class == class) {
				t.Errorf("%d %s: %v, is %v", tt.status, tt.code, got, class)
			}
		}
		if tt.text != "" && got.Error() != tt.text {
			t.Errorf("%d %s: %q, want %q", tt.status, tt.code, got, tt.text)
		}
	}
	// What is no answer does not show the URL either.
	cut := fmt.Errorf("Get %q: %w", "https://account.blob.core.windows.net/container?sv=2026&sr=c&sig=hun%2Fter2%3D", io.ErrUnexpectedEOF)
	if got := s.explain(t.Context(), cut); !errors.Is(got, io.ErrUnexpectedEOF) || strings.Contains(got.Error(), "hun") || strings.Contains(got.Error(), "://") {
		t.Errorf("cut: %v", got)
	}
}

func TestBlockSizes(t *testing.T) {
	total := int64(0)
	for number := 1; number <= mostBlocks; number++ {
		size := blockSize(8<<20, number)
		if size < 8<<20 || size > mostBlock || number > 1 && size < blockSize(8<<20, number-1) {
			t.Fatalf("block %d has %d bytes", number, size)
		}
		if total += int64(size); number == 10_000 && total>>30 != 78 {
			t.Errorf("the first 10,000 blocks hold %d", total)
		}
	}
	if total>>30 != 2421 {
		t.Errorf("%d blocks hold %d bytes", mostBlocks, total)
	}
	s := &Store{block: 8 << 20}
	if size, err := s.sizeOf(mostBlocks); size != 128<<20 || err != nil {
		t.Errorf("the last block: %d, %v", size, err)
	}
	if _, err := s.sizeOf(mostBlocks + 1); !errors.Is(err, store.ErrFinal) {
		t.Errorf("one more: %v", err)
	}
	p := &put{id: "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
	if first, last := p.blockID(1), p.blockID(mostBlocks); len(first) != len(last) || first == last || len(p.id) > 58 { // of 64 bytes
		t.Errorf("names of blocks: %s, %s", first, last)
	}
}
