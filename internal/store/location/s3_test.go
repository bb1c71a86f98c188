package location

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/s3test"
)

func TestS3(t *testing.T) {
	checkParse(t, map[string]string{
		"s3://bucket":                    "",
		"s3://bucket/":                   "s3://bucket",
		"s3://bucket/prod/etcd/":         "s3://bucket/prod/etcd",
		"s3://bucket/a?region=eu-west-1": "",
		"s3://bucket/a?region=eu-west-1&endpoint=https%3A%2F%2Fs3.example%3A9000/":   "s3://bucket/a?endpoint=https://s3.example:9000&region=eu-west-1",
		"s3://bucket?path-style=1&endpoint=http://127.0.0.1:7070":                    "s3://bucket?endpoint=http://127.0.0.1:7070&path-style=true",
		"s3://bucket?path-style=false":                                               "s3://bucket",
		"s3://bucket?ca-file=/etc/ca+1%262.pem&credentials-file=/etc/keys&profile=a": "s3://bucket?ca-file=/etc/ca+1%262.pem&credentials-file=/etc/keys&profile=a",
	})
	checkRefused(t, map[string]string{
		"s3://":                                               "bucket",
		"s3:bucket":                                           "want s3://BUCKET",
		"s3:///prefix":                                        "bucket",
		"s3://Bucket_1":                                       "bucket",
		"s3://bucket:80":                                      "bucket",
		"s3://bucket/a//b":                                    "prefix",
		"s3://bucket/../b":                                    "prefix",
		"s3://bucket/a%20b":                                   "prefix",
		"s3://key:hunter2@bucket/a":                           "name or password",
		"s3://key@bucket/a":                                   "name or password",
		"s3://bucket?secret=hunter2":                          `option "secret" is not known; known are ca-file, credentials-file, endpoint, path-style, profile, region`,
		"s3://bucket?zz=hunter2&secret=1":                     `option "secret" is not known`,
		"s3://bucket?region=a&region=b":                       "once",
		"s3://bucket?region=":                                 "once",
		"s3://bucket?region=%zzhunter2":                       "want s3://BUCKET",
		"s3://bucket?path-style=hunter2":                      "true or false",
		"s3://bucket?ca-file=hunter2.pem":                     "absolute path",
		"s3://bucket?credentials-file=./x":                    `option "credentials-file" must be an absolute path`,
		"s3://bucket?endpoint=s3.example":                     "https://HOST:PORT",
		"s3://bucket?endpoint=http://1.2.3.4":                 "this machine only",
		"s3://bucket?endpoint=https://key:hunter2@s3.example": "no URL",
		"s3://bucket?endpoint=https://s3.example/?k=hunter2":  "https://HOST:PORT",
	})
	checkPlaces(t, map[string]string{
		"s3://bucket/x?endpoint=https://h:1&ca-file=/a&profile=p&credentials-file=/c&region=r&path-style=true": "s3://bucket/x?endpoint=https://h:1&path-style=true&region=r",
		"s3://bucket/x/?profile=p": "s3://bucket/x",
	})
	got, err := Parse("s3://bucket/a/b?endpoint=https://s3.example&region=r&path-style=true&ca-file=/ca&credentials-file=/keys&profile=p")
	want := s3Bucket{bucket: "bucket", prefix: "a/b", endpoint: "https://s3.example", region: "r", pathStyle: "true", caFile: "/ca", keyFile: "/keys", profile: "p"}
	if err != nil || got != want {
		t.Errorf("all options: %+v, %v", got, err)
	}
}

// TestOpenS3 reads and writes a bucket by its address, with keys from a file.
func TestOpenS3(t *testing.T) {
	server := s3test.Start(t)
	bucket := server.Bucket(t, false)
	keys := filepath.Join(t.TempDir(), "keys")
	text := "[backup]\naws_access_key_id = " + server.AccessKey + "\naws_secret_access_key = " + server.SecretKey + "\n"
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address := "s3://" + bucket + "/prod/etcd?endpoint=" + server.Endpoint + "&profile=backup&credentials-file=" + url.QueryEscape(keys)
	if _, err := write(t, address, Options{}); err != nil {
		t.Fatal(err)
	}
	if info, err := server.Client.StatObject(t.Context(), bucket, "prod/etcd/a/b", minio.StatObjectOptions{}); err != nil || info.Size != 7 {
		t.Errorf("in the bucket: %+v, %v", info, err)
	}
	if _, err := write(t, strings.Replace(address, bucket, "no-such-bucket", 1), Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such bucket: %v", err)
	}
	if _, err := write(t, strings.Replace(address, "profile=backup", "profile=other", 1), Options{}); !errors.Is(err, store.ErrDenied) {
		t.Errorf("no such profile: %v", err)
	}
}
