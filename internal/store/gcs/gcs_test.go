package gcs

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/store"
)

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no bucket":            func(o *Options) { o.Bucket = "" },
		"strange bucket":       func(o *Options) { o.Bucket = "a/b" },
		"bucket with capitals": func(o *Options) { o.Bucket = "Bucket" },
		"bucket of dots":       func(o *Options) { o.Bucket = ".." },
		"http abroad":          func(o *Options) { o.Endpoint = "http://gcs.example" },
		"http to this by name": func(o *Options) { o.Endpoint = "http://127.0.0.1.example" },
		"password":             func(o *Options) { o.Endpoint = "https://user:hunter2@gcs.example" },
		"path":                 func(o *Options) { o.Endpoint = "https://gcs.example/path" },
		"query":                func(o *Options) { o.Endpoint = "https://gcs.example?secret=hunter2" },
		"no scheme":            func(o *Options) { o.Endpoint = "gcs.example:9000" },
		"other scheme":         func(o *Options) { o.Endpoint = "ftp://gcs.example" },
		"no CA file":           func(o *Options) { o.CAFile = "missing.pem" },
		"no CA in file":        func(o *Options) { o.CAFile = "gcs_test.go" },
		"strange prefix":       func(o *Options) { o.Prefix = "a//b" },
		"prefix with slash":    func(o *Options) { o.Prefix = "a/" },
		"odd chunks":           func(o *Options) { o.ChunkSize = 1_000_000 },
		"negative chunks":      func(o *Options) { o.ChunkSize = -chunkUnit },
		"huge chunks":          func(o *Options) { o.ChunkSize = 2 << 30 },
	} {
		o := Options{Bucket: "bucket"}
		change(&o)
		_, err := New(o)
		if err == nil || !errors.Is(err, store.ErrFinal) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, endpoint := range []string{"", "https://gcs.example", "https://gcs.example:9000/", "http://127.0.0.1:7070", "http://localhost:1", "http://[::1]:1", "http://127.9.9.9"} {
		if _, err := New(Options{Bucket: "my_bucket.example-1", Endpoint: endpoint, CredentialsFile: "not/read/yet"}); err != nil {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}

// TestRefusals sorts what the server says, and shows it in one line.
func TestRefusals(t *testing.T) {
	s, err := New(Options{Bucket: "bucket"})
	if err != nil {
		t.Fatal(err)
	}
	inForm := func(reason, message string) string {
		return `{"error": {"code": 1, "message": "` + message + `", "errors": [{"reason": "` + reason + `"}]}}`
	}
	for _, tt := range []struct {
		status     int
		kind, body string
		class      error
		text       string
	}{
		{404, "application/json", inForm("notFound", "No such object: bucket/a"), store.ErrNotFound, "the store says notFound (404): No such object: bucket/a"},
		{404, "text/plain; charset=utf-8", "No such object: bucket/a\n", store.ErrNotFound, "the store says Not Found (404): No such object: bucket/a"},
		{410, "", "", store.ErrNotFound, "the store says Gone (410)"},
		{412, "application/json", inForm("conditionNotMet", "x"), store.ErrExists, "the store says conditionNotMet (412): x"},
		{401, "text/html", "<html>", store.ErrDenied, "the store says Unauthorized (401)"},
		{403, "application/json", inForm("forbidden", "somebody may not"), store.ErrDenied, "the store says forbidden (403): somebody may not"},
		{403, "application/json", inForm("userRateLimitExceeded", "x"), nil, "the store says userRateLimitExceeded (403): x"},
		{400, "application/json", inForm("invalid", "x"), store.ErrFinal, "the store says invalid (400): x"},
		{400, "text/plain", `Provided CRC32C "a" doesn't match calculated CRC32C "b".`, nil, ""},
		{405, "", "", store.ErrUnsupported, ""},
		{408, "", "", nil, ""},
		{409, "", "", nil, ""},
		{429, "application/json", inForm("rateLimitExceeded", "x"), nil, "the store says rateLimitExceeded (429): x"},
		{500, "application/json", inForm("backendError", "x"), nil, ""},
		{501, "", "", store.ErrUnsupported, ""},
		{503, "text/html", "<html>", nil, "the store says Service Unavailable (503)"},
		{302, "", "", store.ErrFinal, "the store says Found (302)"},
		{400, "text/plain", "it was sekret\x1b[31m\nand Sekret", store.ErrFinal, "the store says Bad Request (400): it was [secret] [31m and Sekret"},
		{400, "text/plain", "it has authorization: bearer abc", store.ErrFinal, "the store says Bad Request (400): [not shown: it repeats something secret]"},
		{400, "text/plain", "ya29.abc", store.ErrFinal, "the store says Bad Request (400): [not shown: it repeats something secret]"},
		{400, "text/plain", strings.Repeat("ä", 1000), store.ErrFinal, "the store says Bad Request (400): " + strings.Repeat("ä", 150) + "…"},
	} {
		response := &http.Response{StatusCode: tt.status, Header: http.Header{"Content-Type": {tt.kind}}, Body: io.NopCloser(strings.NewReader(tt.body))}
		got := s.refusal(t.Context(), response, []string{"sekret", ""})
		for _, class := range []error{store.ErrDenied, store.ErrNotFound, store.ErrExists, store.ErrUnsupported, store.ErrFinal} {
			if errors.Is(got, class) != (tt.class == class) {
				t.Errorf("%d %s: %v, is %v", tt.status, tt.body, got, class)
			}
		}
		if tt.text != "" && got.Error() != tt.text {
			t.Errorf("%d %s: %q, want %q", tt.status, tt.body, got, tt.text)
		}
	}
}
