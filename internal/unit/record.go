package unit

// DefaultTarget is the folder, inside the unit's root, that snapshot archives go to when the caller names none.
// It is the one that the backups page shows.
const DefaultTarget = "/home/ubuntu/etcd-snapshots"

// ServiceKind says who stops and starts a unit's etcd.
type ServiceKind string

// Child is an etcd that the agent itself starts and adopts; it goes on running while the agent restarts.
const Child ServiceKind = "child"

// Record is what the inventory and the unit's agent know of one unit. All paths are paths of the unit's host.
type Record struct {
	// Agent is the host:port of the agent's API.
	Agent string `yaml:"agent"`
	// ClientURLs and PeerURL are what the member advertises and listens on.
	ClientURLs []string `yaml:"client-urls"`
	PeerURL    string   `yaml:"peer-url"`
	// Member is etcd's --name.
	Member string `yaml:"name"`
	// DataDir holds member/snap and, unless WALDir is set, member/wal.
	DataDir string `yaml:"data-dir"`
	WALDir  string `yaml:"wal-dir,omitempty"`
	// Root is the folder that action paths are inside of: "/" on a real host.
	Root string `yaml:"root"`
	// Target is the default folder for snapshot archives, inside Root. Empty means DefaultTarget.
	Target  string  `yaml:"target,omitempty"`
	Service Service `yaml:"service"`
	// TLS is the client identity that reaches the member.
	TLS TLSFiles `yaml:"tls"`
	// ServerTLS and PeerTLS are what the member's client listener and its connections to other members use. They are
	// empty where someone else starts the etcd.
	ServerTLS TLSFiles `yaml:"server-tls,omitempty"`
	PeerTLS   TLSFiles `yaml:"peer-tls,omitempty"`
	// EtcdBinary is the server to run; empty means the server inside this program.
	EtcdBinary string `yaml:"etcd-binary,omitempty"`
	// EtcdTools is the folder with that server's own etcdctl and etcdutl; needed for the v2 store only.
	EtcdTools string `yaml:"etcd-tools,omitempty"`
	// EtcdArgs are added to the server's arguments as they are, for example --enable-v2.
	EtcdArgs []string `yaml:"etcd-args,omitempty"`
}

// Service is how the unit's etcd is stopped and started.
type Service struct {
	Kind ServiceKind `yaml:"kind"`
}

// TLSFiles are the paths of a CA certificate, a certificate and its key, PEM each.
type TLSFiles struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// IsZero tells whether no file is named.
func (f TLSFiles) IsZero() bool { return f == TLSFiles{} }

// SnapshotTarget is the folder for snapshot archives that holds for this unit.
func (r Record) SnapshotTarget() string {
	if r.Target != "" {
		return r.Target
	}
	return DefaultTarget
}
