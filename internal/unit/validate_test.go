package unit

import (
	"strings"
	"testing"
)

func validRecord() Record {
	files := func(name string) TLSFiles {
		return TLSFiles{CA: "/tls/ca.crt", Cert: "/tls/" + name + ".crt", Key: "/tls/" + name + ".key"}
	}
	return Record{
		Agent: "127.0.0.1:7000", ClientURLs: []string{"https://127.0.0.1:2379"}, PeerURL: "https://127.0.0.1:2380",
		Member: "etcd-0", DataDir: "/u/data", Root: "/u/root", Service: Service{Kind: Child},
		TLS: files("client"), ServerTLS: files("server"), PeerTLS: files("peer"),
	}
}

func TestValidate(t *testing.T) {
	if err := validRecord().Validate(); err != nil {
		t.Errorf("good record: %v", err)
	}
	plain := validRecord()
	plain.ClientURLs, plain.PeerURL = []string{"http://[::1]:2379"}, "http://[::1]:2380"
	plain.TLS, plain.ServerTLS, plain.PeerTLS = TLSFiles{}, TLSFiles{}, TLSFiles{}
	if err := plain.Validate(); err != nil {
		t.Errorf("record without TLS: %v", err)
	}
	tests := []struct {
		name   string
		change func(*Record)
		want   string
	}{
		{"no port", func(r *Record) { r.Agent = "localhost" }, `agent: "localhost" is no HOST:PORT`},
		{"port zero", func(r *Record) { r.Agent = "localhost:0" }, "agent: "},
		{"port too high", func(r *Record) { r.Agent = "localhost:65536" }, "agent: "},
		{"no host", func(r *Record) { r.Agent = ":7000" }, "agent: "},
		{"no client URL", func(r *Record) { r.ClientURLs = nil }, "client-urls: missing"},
		{"client URL without port", func(r *Record) { r.ClientURLs = append(r.ClientURLs, "https://h") }, "client-urls[1]: "},
		{"client URL with path", func(r *Record) { r.ClientURLs[0] += "/x" }, "client-urls[0]: "},
		{"client URL with user", func(r *Record) { r.ClientURLs[0] = "https://u:p@h:1" }, "client-urls[0]: "},
		{"peer URL of another kind", func(r *Record) { r.PeerURL = "ftp://h:1" }, "peer-url: "},
		{"member with comma", func(r *Record) { r.Member = "a,b" }, "name: "},
		{"no member", func(r *Record) { r.Member = "" }, "name: "},
		{"relative data dir", func(r *Record) { r.DataDir = "data" }, `data-dir: "data" is no absolute path`},
		{"no root", func(r *Record) { r.Root = "" }, "root: "},
		{"relative WAL dir", func(r *Record) { r.WALDir = "wal" }, "wal-dir: "},
		{"relative target", func(r *Record) { r.Target = "x" }, "target: "},
		{"relative binary", func(r *Record) { r.EtcdBinary = "etcd" }, "etcd-binary: "},
		{"relative tools", func(r *Record) { r.EtcdTools = "bin" }, "etcd-tools: "},
		{"unknown service", func(r *Record) { r.Service.Kind = "magic" }, `service.kind: "magic"`},
		{"no client TLS", func(r *Record) { r.TLS = TLSFiles{} }, "tls: "},
		{"half a server TLS", func(r *Record) { r.ServerTLS.Key = "" }, "server-tls: "},
		{"no peer TLS", func(r *Record) { r.PeerTLS = TLSFiles{} }, "peer-tls: "},
	}
	for _, test := range tests {
		r := validRecord()
		test.change(&r)
		err := r.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want one line that starts with %q", test.name, err, test.want)
		}
	}
	if got := strings.Count((Record{}).Validate().Error(), "\n") + 1; got != 7 {
		t.Errorf("an empty record has %d bad fields, want 7: %v", got, (Record{}).Validate())
	}
}
