package location

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/gcs"
	"github.com/holdfast-project/holdfast/internal/store/gcstest"
)

func TestGCS(t *testing.T) {
	checkParse(t, map[string]string{
		"gs://bucket":                "",
		"gs://bucket/":               "gs://bucket",
		"gs://some_bucket.example/a": "",
		"gs://bucket/prod/etcd/":     "gs://bucket/prod/etcd",
		"gs://bucket/a?endpoint=https%3A%2F%2Fgcs.example%3A4443/":  "gs://bucket/a?endpoint=https://gcs.example:4443",
		"gs://bucket?credentials-file=/etc/key.json&ca-file=/a%26b": "gs://bucket?ca-file=/a%26b&credentials-file=/etc/key.json",
	})
	checkRefused(t, map[string]string{
		"gs://":                               "bucket",
		"gs:bucket":                           "want gs://BUCKET/PREFIX",
		"gs:///prefix":                        "bucket",
		"gs://Bucket":                         "bucket",
		"gs://bucket:80":                      "bucket",
		"gs://bucket/a//b":                    "prefix",
		"gs://bucket/a%20b":                   "prefix",
		"gs://key:hunter2@bucket/a":           "name or password",
		"gs://key@bucket/a":                   "name or password",
		"gs://bucket?key=hunter2":             `option "key" is not known; known are ca-file, credentials-file, endpoint`,
		"gs://bucket?ca-file=/a&ca-file=/b":   "once",
		"gs://bucket?endpoint=":               "once",
		"gs://bucket?endpoint=%zzhunter2":     "want gs://BUCKET",
		"gs://bucket?credentials-file=key":    `option "credentials-file" must be an absolute path`,
		"gs://bucket?endpoint=http://1.2.3.4": "this machine only",
		"gs://bucket?endpoint=https://key:hunter2@gcs.example": "no URL",
	})
	checkPlaces(t, map[string]string{
		"gs://bucket/x?endpoint=https://h:1&ca-file=/a&credentials-file=/c": "gs://bucket/x?endpoint=https://h:1",
		"gs://bucket/x/": "gs://bucket/x",
	})
	got, err := Parse("gs://bucket/a/b?endpoint=https://gcs.example&ca-file=/ca&credentials-file=/key")
	want := gcs.Options{Bucket: "bucket", Prefix: "a/b", Endpoint: "https://gcs.example", CAFile: "/ca", CredentialsFile: "/key"}
	if b, is := got.(gcsBucket); err != nil || !is || !cmp.Equal(b.driver(), want) {
		t.Errorf("all options: %+v, %v", got, err)
	}
}

// TestOpenGCS reads and writes a bucket by its address.
func TestOpenGCS(t *testing.T) {
	server := gcstest.Start(t)
	bucket := server.Bucket(t, false)
	if _, err := write(t, "gs://"+bucket+"/prod/etcd?endpoint="+server.Endpoint, Options{}); err != nil {
		t.Fatal(err)
	}
	whole, err := gcs.New(server.Options(bucket))
	if err != nil {
		t.Fatal(err)
	}
	if object, err := whole.Stat(t.Context(), "prod/etcd/a/b"); err != nil || object.Size != 7 {
		t.Errorf("in the bucket: %+v, %v", object, err)
	}
	if _, err := write(t, "gs://no-such-bucket?endpoint="+server.Endpoint, Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such bucket: %v", err)
	}
	if _, err := write(t, "gs://"+bucket+"?endpoint="+server.Endpoint+"&credentials-file=/none", Options{}); !errors.Is(err, store.ErrDenied) {
		t.Errorf("no such file: %v", err)
	}
}
