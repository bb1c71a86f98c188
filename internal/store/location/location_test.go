package location

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"file:///srv/backups":            "",
		"file:///srv//a/../backups/":     "file:///srv/backups",
		"file:///a%20b":                  "",
		"s3://bucket":                    "",
		"s3://bucket/":                   "s3://bucket",
		"s3://bucket/prod/etcd/":         "s3://bucket/prod/etcd",
		"s3://bucket/a?region=eu-west-1": "",
		"s3://bucket/a?region=eu-west-1&endpoint=https%3A%2F%2Fs3.example%3A9000/":   "s3://bucket/a?endpoint=https://s3.example:9000&region=eu-west-1",
		"s3://bucket?path-style=1&endpoint=http://127.0.0.1:7070":                    "s3://bucket?endpoint=http://127.0.0.1:7070&path-style=true",
		"s3://bucket?ca-file=/etc/ca+1%262.pem&credentials-file=/etc/keys&profile=a": "s3://bucket?ca-file=/etc/ca+1%262.pem&credentials-file=/etc/keys&profile=a",
	} {
		if want == "" {
			want = text
		}
		got, err := Parse(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
			continue
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q read again: %+v, %v; want %+v", got, again, err, got)
		}
	}
	got, err := Parse("s3://bucket/a/b?endpoint=https://s3.example&region=r&path-style=true&ca-file=/ca&credentials-file=/keys&profile=p")
	want := Location{Bucket: "bucket", Prefix: "a/b", Endpoint: "https://s3.example", Region: "r", PathStyle: true, CAFile: "/ca", CredentialsFile: "/keys", Profile: "p"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("all options: %v (-want +got)\n%s", err, diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "no address",
		"/srv":                                "no address",
		"file:":                               "absolute",
		"file://":                             "absolute",
		"file:///":                            "not the root folder",
		"file://srv/backups":                  "three slashes",
		"file:srv":                            "absolute",
		"file:///a?b=c":                       "no options",
		"file:///a?":                          "no options",
		"file:///a#b":                         "after #",
		"file://hunter2@/x":                   "name or password",
		"s4://x/y":                            `scheme "s4" is not known; known are file, s3`,
		"gs://bucket?key=hunter2":             "known are file, s3",
		"ftp://user:hunter2@host/x":           "name or password",
		"://hunter2":                          "cannot be read",
		"s3://":                               "bucket",
		"s3:bucket":                           "want s3://BUCKET",
		"s3:///prefix":                        "bucket",
		"s3://Bucket_1":                       "bucket",
		"s3://bucket:80":                      "bucket",
		"s3://bucket/a//b":                    "prefix",
		"s3://bucket/../b":                    "prefix",
		"s3://bucket/a%20b":                   "prefix",
		"s3://key:hunter2@bucket/a":           "name or password",
		"s3://bucket?secret=hunter2":          `option "secret" is not known; known are ca-file, credentials-file, endpoint, path-style, profile, region`,
		"s3://bucket?region=a&region=b":       "once",
		"s3://bucket?region=":                 "once",
		"s3://bucket?region=%zzhunter2":       "want s3://BUCKET",
		"s3://bucket?path-style=hunter2":      "true or false",
		"s3://bucket?ca-file=hunter2.pem":     "absolute path",
		"s3://bucket?endpoint=s3.example":     "https://HOST:PORT",
		"s3://bucket?endpoint=http://1.2.3.4": "this machine only",
		"s3://bucket?endpoint=https://key:hunter2@s3.example": "no URL",
		"s3://bucket?endpoint=https://s3.example/?k=hunter2":  "https://HOST:PORT",
		"s3://bucket#hunter2":                                 "after #",
	} {
		got, err := Parse(text)
		if err == nil {
			t.Errorf("%q passes as %+v", text, got)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// TestPlace is the same for all who look at one place.
func TestPlace(t *testing.T) {
	for text, want := range map[string]string{
		"file:///srv/x": "file:///srv/x",
		"s3://bucket/x?endpoint=https://h:1&ca-file=/a&profile=p&credentials-file=/c": "s3://bucket/x?endpoint=https://h:1",
	} {
		at, err := Parse(text)
		if err != nil || at.Place() != want {
			t.Errorf("%q: %q, %v", text, at.Place(), err)
		}
	}
}

func TestOpenFolder(t *testing.T) {
	at, err := Parse("file://" + filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := at.Open(t.Context(), false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a missing folder: %v", err)
	}
	for _, create := range []bool{true, false} {
		if _, err := at.Open(t.Context(), create); err != nil {
			t.Errorf("create %v: %v", create, err)
		}
	}
}

// TestOpenBucket reads and writes a bucket by its address, with keys from a file.
func TestOpenBucket(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t, false)
	keys := filepath.Join(t.TempDir(), "keys")
	text := "[backup]\naws_access_key_id = " + server.AccessKey + "\naws_secret_access_key = " + server.SecretKey + "\n"
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address := "s3://" + bucket + "/prod/etcd?endpoint=" + server.Endpoint + "&profile=backup&credentials-file=" + url.QueryEscape(keys)
	open := func(address string) store.Store {
		t.Helper()
		at, err := Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		s, err := at.Open(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, err := store.PutBytes(t.Context(), open(address), "a/b", []byte("content"), store.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if info, err := server.Client.StatObject(t.Context(), bucket, "prod/etcd/a/b", minio.StatObjectOptions{}); err != nil || info.Size != 7 {
		t.Errorf("in the bucket: %+v, %v", info, err)
	}
	if _, err := open(strings.Replace(address, bucket, "no-such-bucket", 1)).Stat(t.Context(), "a/b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such bucket: %v", err)
	}
	_, err := open(strings.Replace(address, "profile=backup", "profile=other", 1)).Stat(t.Context(), "a/b")
	if !errors.Is(err, store.ErrDenied) {
		t.Errorf("no such profile: %v", err)
	}
}
