package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/unit"
)

func TestHome(t *testing.T) {
	for _, tt := range []struct {
		environ map[string]string
		want    string // or the error
	}{
		{map[string]string{"HOLDFAST_HOME": "/a", "XDG_DATA_HOME": "/b", "HOME": "/c"}, "/a"},
		{map[string]string{"HOLDFAST_HOME": "/a/../b//c/"}, "/b/c"},
		{map[string]string{"XDG_DATA_HOME": "/b", "HOME": "/c"}, "/b/holdfast"},
		{map[string]string{"HOME": "/c"}, "/c/.local/share/holdfast"},
		{nil, "/var/lib/holdfast"},
		{map[string]string{"HOLDFAST_HOME": "a"}, `find home: HOLDFAST_HOME is "a", which is not an absolute path`},
		{map[string]string{"XDG_DATA_HOME": "./b"}, `find home: XDG_DATA_HOME is "./b", which is not an absolute path`},
		{map[string]string{"HOME": "c"}, `find home: HOME is "c", which is not an absolute path`},
	} {
		got, err := Home(func(name string) string { return tt.environ[name] })
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%v: %q", tt.environ, got)
		}
	}
}

func valid() Agent {
	files := func(name string) unit.TLSFiles {
		return unit.TLSFiles{CA: "/tls/" + name + "-ca.crt", Cert: "/tls/" + name + ".crt", Key: "/tls/" + name + ".key"}
	}
	return Agent{
		Unit: unit.Name{Application: "etcd", Number: 3},
		Record: unit.Record{
			Agent: "127.0.0.1:7000", ClientURLs: []string{"https://127.0.0.1:2379"}, PeerURL: "https://127.0.0.1:2380", Member: "etcd-3",
			DataDir: "/u/root/var/lib/etcd", WALDir: "/wal", Root: "/u/root", Target: "/mnt", Service: unit.Service{Kind: unit.Child},
			TLS: files("client"), ServerTLS: files("server"), PeerTLS: files("peer"),
			EtcdBinary: "/usr/bin/etcd", EtcdTools: "/usr/bin", EtcdArgs: []string{"--enable-v2"},
		},
		StateDir: "/u/state", TLS: files("agent"), Inventory: "/home/inventory.yaml", Files: []string{"/srv"},
		Cluster: Cluster{Members: map[string]string{"etcd-0": "https://127.0.0.1:1", "etcd-3": "https://127.0.0.1:2380"}, State: Existing, Token: "t"},
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFileHoldsEverything(t *testing.T) {
	want := valid()
	encoded, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadAgent(write(t, string(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it comes back as another (-want +got):\n%s", diff)
	}
}

func TestBadFiles(t *testing.T) {
	encoded, err := valid().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good := string(encoded)
	for name, tt := range map[string]struct{ content, want string }{
		"unknown key":       {good + "restart: true\n", "field restart not found"},
		"unknown inner key": {strings.Replace(good, "  state: existing", "  state: existing\n  tokens: x", 1), "field tokens not found"},
		"a key twice":       {good + "state-dir: /other\n", "field state-dir already set"},
		"bad unit":          {strings.Replace(good, "etcd/3", "etcd-3", 1), `parse unit name "etcd-3"`},
		"two documents":     {good + "---\n" + good, "want one YAML document, got more"},
		"no YAML":           {"\t", "found character that cannot start any token"},
		"empty":             {"", "unit: missing"},
		"a list":            {"- a\n", "cannot unmarshal"},
	} {
		path := write(t, tt.content)
		if _, err := LoadAgent(path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadAgent(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestValidateNamesEveryBadField(t *testing.T) {
	if err := valid().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Agent)
		want   string
	}{
		"no unit":             {func(a *Agent) { a.Unit = unit.Name{} }, "unit: missing, want APPLICATION/NUMBER"},
		"record":              {func(a *Agent) { a.Record.DataDir = "x" }, `record: data-dir: "x" is no absolute path`},
		"state-dir":           {func(a *Agent) { a.StateDir = "" }, `state-dir: "" is no absolute path`},
		"tls.ca":              {func(a *Agent) { a.TLS.CA = "ca" }, `tls.ca: "ca" is no absolute path`},
		"tls.cert":            {func(a *Agent) { a.TLS.Cert = "cert" }, `tls.cert: "cert" is no absolute path`},
		"tls.key":             {func(a *Agent) { a.TLS.Key = "key" }, `tls.key: "key" is no absolute path`},
		"files":               {func(a *Agent) { a.Files = []string{"/a", "b"} }, `files[1]: "b" is no absolute path`},
		"inventory":           {func(a *Agent) { a.Inventory = "inventory.yaml" }, `inventory: "inventory.yaml" is no absolute path`},
		"own member missing":  {func(a *Agent) { delete(a.Cluster.Members, "etcd-3") }, `cluster.members: want "etcd-3" with the peer URL "https://127.0.0.1:2380", got ""`},
		"own member wrong":    {func(a *Agent) { a.Cluster.Members["etcd-3"] = "https://x:1" }, `cluster.members: want "etcd-3" with the peer URL "https://127.0.0.1:2380", got "https://x:1"`},
		"cluster state":       {func(a *Agent) { a.Cluster.State = "old" }, `cluster.state: want new or existing, got "old"`},
		"empty cluster state": {func(a *Agent) { a.Cluster.State = "" }, `cluster.state: want new or existing, got ""`},
	} {
		agent := valid()
		tt.change(&agent)
		if err := agent.Validate(); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	var lines []string
	for line := range strings.Lines((Agent{}).Validate().Error()) {
		field, _, _ := strings.Cut(line, ":")
		lines = append(lines, field)
	}
	if got := strings.Join(lines, " "); !strings.HasPrefix(got, "unit record ") || !strings.HasSuffix(got, "state-dir tls.ca tls.cert tls.key cluster.state") {
		t.Errorf("an empty configuration has the bad fields %s", got)
	}
}

func TestServedFolders(t *testing.T) {
	agent := valid()
	if got := agent.ServedFolders(); !cmp.Equal(got, []string{"/srv"}) {
		t.Errorf("given: %q", got)
	}
	agent.Files = nil
	if got := agent.ServedFolders(); !cmp.Equal(got, []string{"/home/ubuntu", "/mnt"}) {
		t.Errorf("with a target: %q", got)
	}
	agent.Record.Target = ""
	if got := agent.ServedFolders(); !cmp.Equal(got, []string{"/home/ubuntu", "/home/ubuntu/etcd-snapshots"}) {
		t.Errorf("default: %q", got)
	}
}
