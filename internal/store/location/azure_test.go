package location

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/store/azure"
	"github.com/holdfast-project/holdfast/internal/store/azuretest"
)

func TestAzure(t *testing.T) {
	checkParse(t, map[string]string{
		"azblob://container?account=account":                                  "",
		"azblob://container/?account=account":                                 "azblob://container?account=account",
		"azblob://container/prod/etcd/?account=account":                       "azblob://container/prod/etcd?account=account",
		"azblob://container/a?endpoint=https%3A%2F%2Faccount.blob.example/":   "azblob://container/a?endpoint=https://account.blob.example",
		"azblob://container/a?endpoint=http://127.0.0.1:10000/account/":       "azblob://container/a?endpoint=http://127.0.0.1:10000/account",
		"azblob://container?credentials-file=/etc/key&ca-file=/a&account=acc": "azblob://container?account=acc&ca-file=/a&credentials-file=/etc/key",
	})
	checkRefused(t, map[string]string{
		"azblob://":                                                 "container",
		"azblob:container":                                          "want azblob://CONTAINER/PREFIX?account=NAME",
		"azblob:///prefix?account=account":                          "container",
		"azblob://Container?account=account":                        "container",
		"azblob://container:80?account=account":                     "container",
		"azblob://container/a":                                      "which storage account",
		"azblob://container?ca-file=/a":                             "which storage account",
		"azblob://container/a//b?account=account":                   "prefix",
		"azblob://container?account=Not-One":                        "account",
		"azblob://container?account=account&account=other":          "once",
		"azblob://container?account=":                               "once",
		"azblob://key:hunter2@container/a?account=account":          "name or password",
		"azblob://account@container/a":                              "name or password",
		"azblob://container?account=account&key=hunter2":            `option "key" is not known; known are account, ca-file, credentials-file, endpoint`,
		"azblob://container?account=account&sig=hunter2":            `option "sig" is not known`,
		"azblob://container?account=%zzhunter2":                     "want azblob://CONTAINER",
		"azblob://container?account=account&ca-file=ca":             `option "ca-file" must be an absolute path`,
		"azblob://container?endpoint=http://192.0.2.1":              "this machine only",
		"azblob://container?endpoint=https://x.example?sig=hunter2": "no more",
		"azblob://container?endpoint=https://a:hunter2@x.example":   "no URL",
	})
	checkPlaces(t, map[string]string{
		"azblob://container/x?account=account&ca-file=/a&credentials-file=/c": "azblob://container/x?account=account",
		"azblob://container/x/?endpoint=https://h:1/":                         "azblob://container/x?endpoint=https://h:1",
	})
	got, err := Parse("azblob://container/a/b?account=account&endpoint=https://x.example&ca-file=/ca&credentials-file=/key")
	want := azure.Options{
		Account: "account", Container: "container", Prefix: "a/b", Endpoint: "https://x.example", CAFile: "/ca",
		Credentials: azure.Credentials{File: "/key"},
	}
	c, is := got.(azureContainer)
	if err != nil || !is {
		t.Fatalf("all options: %+v, %v", got, err)
	}
	if diff := cmp.Diff(want, c.driver(nil)); diff != "" {
		t.Errorf("all options (-want +got)\n%s", diff)
	}
}

// TestOpenAzure reads and writes a container by its address, with a key from a variable and from a file.
func TestOpenAzure(t *testing.T) {
	server := azuretest.Start(t)
	container := server.Container(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(server.Key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := azure.New(server.Options(container))
	if err != nil {
		t.Fatal(err)
	}
	for prefix, opts := range map[string]Options{
		"by-variable": {Getenv: func(name string) string { return map[string]string{"AZURE_STORAGE_KEY": server.Key}[name] }},
		"by-file":     {},
	} {
		address := "azblob://" + container + "/" + prefix + "?account=" + server.Account + "&endpoint=" + server.Endpoint()
		if opts.Getenv == nil {
			if _, err := write(t, address, opts); err == nil {
				t.Errorf("%s: nobody is asked for a key", prefix)
			}
			address += "&credentials-file=" + key
		}
		if _, err := write(t, address, opts); err != nil {
			t.Fatalf("%s: %v", prefix, err)
		}
		if object, err := whole.Stat(t.Context(), prefix+"/a/b"); err != nil || object.Size != 7 {
			t.Errorf("in the container: %+v, %v", object, err)
		}
	}
}
