package s3

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/holdfast-project/holdfast/internal/store"
)

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no bucket":            func(o *Options) { o.Bucket = "" },
		"strange bucket":       func(o *Options) { o.Bucket = "a/b" },
		"http abroad":          func(o *Options) { o.Endpoint = "http://s3.example" },
		"http to this by name": func(o *Options) { o.Endpoint = "http://127.0.0.1.example" },
		"password":             func(o *Options) { o.Endpoint = "https://user:hunter2@s3.example" },
		"path":                 func(o *Options) { o.Endpoint = "https://s3.example/path" },
		"query":                func(o *Options) { o.Endpoint = "https://s3.example?secret=hunter2" },
		"no scheme":            func(o *Options) { o.Endpoint = "s3.example:9000" },
		"other scheme":         func(o *Options) { o.Endpoint = "ftp://s3.example" },
		"no CA file":           func(o *Options) { o.CAFile = "missing.pem" },
		"no CA in file":        func(o *Options) { o.CAFile = "s3_test.go" },
		"half of the keys":     func(o *Options) { o.Credentials.AccessKey = "hunter2" },
		"strange prefix":       func(o *Options) { o.Prefix = "a//b" },
		"small parts":          func(o *Options) { o.PartSize = 1 << 20 },
		"prefix with slash":    func(o *Options) { o.Prefix = "a/" },
	} {
		o := Options{Bucket: "bucket"}
		change(&o)
		_, err := New(o)
		if err == nil || !errors.Is(err, store.ErrFinal) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, endpoint := range []string{"", "https://s3.example", "https://s3.example:9000/", "http://127.0.0.1:7070", "http://localhost:1", "http://[::1]:1", "http://127.9.9.9"} {
		if _, err := New(Options{Bucket: "bucket", Endpoint: endpoint}); err != nil {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

func TestCredentialsAreNotShown(t *testing.T) {
	o := Options{Bucket: "bucket", Credentials: Credentials{AccessKey: "hunter2", SecretKey: "hunter3", SessionToken: "hunter4"}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, o); strings.Contains(text, "hunter") {
			t.Errorf("%s shows keys: %s", format, text)
		}
	}
}

// TestCredentials finds keys in the order of the sources, and says where it looked.
func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "credentials")
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = of-file\naws_secret_access_key = s\n[other]\naws_access_key_id = of-other\naws_secret_access_key = s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "none"))
	// A role's service that nobody runs, on this machine: the test must not ask the network for one.
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/role?token=hunter2")
	get := func(c Credentials) (string, error) {
		value, err := newKeyring(c).RetrieveWithCredContext(&credentials.CredContext{Context: t.Context()})
		return value.AccessKeyID, err
	}
	_, err := get(Credentials{})
	if !errors.Is(err, store.ErrDenied) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("no keys: %v", err)
	}
	for _, where := range []string{"environment: ", "shared files: ", "role: "} {
		if !strings.Contains(err.Error(), where) {
			t.Errorf("the error does not say %q: %v", where, err)
		}
	}
	want := func(c Credentials, want string) {
		t.Helper()
		if got, err := get(c); got != want || err != nil {
			t.Errorf("%s: keys %q, %v; want %q", c, got, err, want)
		}
	}
	want(Credentials{File: file}, "of-file")
	want(Credentials{File: file, Profile: "other"}, "of-other")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	want(Credentials{}, "of-file")
	want(Credentials{Profile: "other"}, "of-other")
	t.Setenv("AWS_ACCESS_KEY_ID", "of-environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	want(Credentials{}, "of-environment")
	want(Credentials{File: file}, "of-file")
	want(Credentials{AccessKey: "given", SecretKey: "s"}, "given")
	if got, err := get(Credentials{Profile: "none"}); !errors.Is(err, store.ErrDenied) {
		t.Errorf("no such profile: %q, %v", got, err)
	}
}

// TestExplain sorts answers, and shows nothing of keys or control characters in them.
func TestExplain(t *testing.T) {
	s, err := New(Options{Bucket: "bucket", Credentials: Credentials{AccessKey: "key-id", SecretKey: "key-secret", SessionToken: "key-token"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.keys.Retrieve(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status  int
		code    string
		message string
		class   error // nil for what may pass
		text    string
	}{
		{403, "AccessDenied", "no", store.ErrDenied, "the store says AccessDenied (403): no"},
		{400, "ExpiredToken", "", store.ErrDenied, "the store says ExpiredToken (400): Error response code ExpiredToken."},
		{404, "NoSuchBucket", "none", store.ErrNotFound, "the store says NoSuchBucket (404): none"},
		{412, "PreconditionFailed", "x", store.ErrExists, ""},
		{412, "Other", "x", store.ErrExists, ""},
		{503, "SlowDown", "x", nil, ""},
		{400, "RequestTimeout", "x", nil, ""},
		{400, "BadDigest", "x", nil, ""},
		{400, "AuthorizationHeaderMalformed", "x", nil, ""}, // the region is asked for
		{400, "InvalidRequest", "x", store.ErrFinal, ""},
		{501, "NotImplemented", "x", store.ErrUnsupported, ""},
		{500, "500 Internal Server Error", "<html>", nil, "the store says Internal Server Error (500)"},
		{200, "Strange", "x", nil, ""},
		{403, "SignatureDoesNotMatch", "we got Credential=key-id/2026, Signature=abc", store.ErrDenied, "the store says SignatureDoesNotMatch (403): [not shown: it repeats the request's signature]"},
		{403, "InvalidAccessKeyId", "no key-id\x1b[31m\nwith key-token, key-secret", store.ErrDenied, "the store says InvalidAccessKeyId (403): no [key] [31m with [key], [key]"},
		{400, "Long", strings.Repeat("ä", 1000), store.ErrFinal, "the store says Long (400): " + strings.Repeat("ä", 150) + "…"},
	} {
		message := tt.message
		got := s.explain(t.Context(), minio.ErrorResponse{StatusCode: tt.status, Code: tt.code, Message: message})
		for _, class := range []error{store.ErrDenied, store.ErrNotFound, store.ErrExists, store.ErrUnsupported, store.ErrFinal} {
			if errors.Is(got, class) != (tt.class == class) {
				t.Errorf("%d %s: %v, is %v", tt.status, tt.code, got, class)
			}
		}
		if tt.text != "" && tt.message != "" && got.Error() != tt.text {
			t.Errorf("%d %s: %q, want %q", tt.status, tt.code, got, tt.text)
		}
	}
}

func TestPartSizes(t *testing.T) {
	total := int64(0)
	for number := 1; number <= mostParts; number++ {
		size := partSize(16<<20, number)
		if size < 5<<20 || size > 5<<30 || number > 1 && size < partSize(16<<20, number-1) {
			t.Fatalf("part %d has %d bytes", number, size)
		}
		if number == 900 && total+int64(size) > 15<<30 {
			t.Errorf("the first 900 parts hold %d", total)
		}
		total += int64(size)
	}
	if total < 5<<40 {
		t.Errorf("%d parts hold %d bytes, less than 5 TiB", mostParts, total)
	}
	s := &Store{part: 16 << 20}
	if size, err := s.sizeOf(mostParts); size != mostPart || err != nil {
		t.Errorf("the last part: %d, %v", size, err)
	}
	if _, err := s.sizeOf(mostParts + 1); !errors.Is(err, store.ErrFinal) {
		t.Errorf("one more: %v", err)
	}
}
