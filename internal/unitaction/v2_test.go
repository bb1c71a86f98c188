package unitaction

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/scratch"
	"github.com/holdfast-project/holdfast/internal/unit"
)

func TestCountV2Nodes(t *testing.T) {
	for answer, want := range map[string]int64{
		`{"action":"get","node":{"dir":true}}`: 0,
		`{"action":"get","node":{"dir":true,"nodes":[{"key":"/a","value":"1","modifiedIndex":4,"createdIndex":4}]}}`:                                                                               1,
		`{"action":"get","node":{"dir":true,"nodes":[{"key":"/d","dir":true,"modifiedIndex":4},{"key":"/e","dir":true,"nodes":[{"key":"/e/f","value":"{}","ttl":9},{"key":"/e/g","value":""}]}]}}`: 2,
		`{"action":"get","node":{"dir":true,"nodes":[{"key":"/dir","value":"true"},{"key":"/{","value":"\"dir\":true"}]}}`:                                                                         2,
		``: -1, `404 page not found`: -1, `{"errorCode":100}`: -1, `{"action":"get","node":{"dir":true,"nodes":[{"key":"/a"`: -1,
	} {
		got, err := countV2Nodes(strings.NewReader(answer))
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("%s: %d, %v; want %d", answer, got, err, want)
		}
	}
}

// What an etcd without the v2 API says to every path differs from what the store says to a key that is not there.
func TestV2APIAnswers(t *testing.T) {
	var code int
	var index string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if index != "" {
			w.Header().Set("X-Etcd-Index", index)
		}
		w.WriteHeader(code)
		_, _ = w.Write([]byte("secret"))
	}))
	defer server.Close()
	api := newV2API(server.URL, &http.Transport{})
	for _, test := range []struct {
		code  int
		index string
		want  error
	}{
		{http.StatusOK, "7", nil}, {http.StatusNotFound, "7", nil},
		{http.StatusNotFound, "", errNoV2API}, {http.StatusUnauthorized, "", errV2Login}, {http.StatusForbidden, "", errV2Login},
	} {
		code, index = test.code, test.index
		if err := api.confirm(t.Context(), "_x"); !errors.Is(err, test.want) {
			t.Errorf("code %d, index %q: %v; want %v", test.code, test.index, err, test.want)
		}
	}
	code = http.StatusServiceUnavailable
	if err := api.served(t.Context()); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "503") {
		t.Errorf("code 503: %v", err)
	}
}

func TestV2Argument(t *testing.T) {
	for args, want := range map[string]bool{
		"": false, "--enable-v2": true, "-enable-v2": true, "--enable-v2=true": true, "--enable-v2=1": true, "--enable-v2=false": false,
		"--enable-v2 --enable-v2=false": false, "--enable-v2=false --enable-v2": true, "--enable-v2x": false,
		"--snapshot-count=5 --enable-v2=true --name=x": true, "--enable-v2=perhaps": false,
	} {
		if got := v2Argument(strings.Fields(args)); got != want {
			t.Errorf("%q: %v", args, got)
		}
	}
}

func TestFindV2Tool(t *testing.T) {
	old, newer := etcdtest.Get(t, "3.4"), etcdtest.Get(t, "3.5")
	mixed := t.TempDir()
	for name, target := range map[string]string{"etcdctl": newer.Ctl, "etcdutl": etcdtest.Get(t, "3.6").Utl} {
		if err := os.Symlink(target, filepath.Join(mixed, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ version, tools, want string }{
		{old.Full, filepath.Dir(old.Ctl), ""},
		{newer.Full, filepath.Dir(newer.Utl), ""},
		{newer.Full, filepath.Dir(old.Ctl), "needs the etcdutl of etcd 3.5: "},
		{old.Full, mixed, "needs the etcdctl of etcd 3.4, but"},
		{newer.Full, mixed, "needs the etcdutl of etcd 3.5, but"},
		{old.Full, "", "needs the etcdctl of etcd 3.4, and the unit knows no folder with it"},
		{"3.6.16", filepath.Dir(newer.Utl), "etcd 3.6.16 has no v2 store"},
		{"3.7.3", "", "etcd 3.7.3 has no v2 store"},
	} {
		u := &Unit{Record: unit.Record{EtcdTools: test.tools}}
		tool, err := u.findV2Tool(t.Context(), test.version)
		if test.want == "" && (err != nil || !strings.HasPrefix(tool.path, test.tools)) ||
			test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("etcd %s, tools in %q: %v; want %q", test.version, test.tools, err, test.want)
		}
	}
}

// A tool that fails gives its last words, and one that hangs ends with the context.
func TestV2ToolEnds(t *testing.T) {
	script := func(lines string) v2Tool {
		path := filepath.Join(t.TempDir(), "etcdutl")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines), 0o700); err != nil {
			t.Fatal(err)
		}
		return v2Tool{path: path, env: scratch.Environment()}
	}
	_, err := script("echo first >&2\necho the disk is full >&2\nexit 3").run(t.Context(), "backup")
	if err == nil || !strings.Contains(err.Error(), "run etcdutl backup: exit status 3: the disk is full") {
		t.Errorf("failing tool: %v", err)
	}
	stop := errors.New("cancelled by a test")
	ctx, cancel := context.WithCancelCause(t.Context())
	ready := filepath.Join(t.TempDir(), "ready")
	tool := script("mkfifo " + ready + "\nread line <" + ready)
	go func() {
		// Opening the other end of the pipe waits until the tool hangs in it.
		for ctx.Err() == nil {
			if pipe, err := os.OpenFile(ready, os.O_RDWR, 0); err == nil {
				defer pipe.Close()
				cancel(stop)
			}
		}
	}()
	if _, err := tool.run(ctx, "backup"); !errors.Is(err, stop) {
		t.Errorf("hanging tool: %v", err)
	}
}
