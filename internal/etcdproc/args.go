package etcdproc

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-project/holdfast/internal/unit"
)

// ClusterState says whether a member founds its cluster or joins one that exists.
type ClusterState string

const (
	// New members found the cluster together.
	New ClusterState = "new"
	// Existing is for a member that was added to a running cluster.
	Existing ClusterState = "existing"
)

// ClusterSpec is how a member without data finds its cluster. A member with data takes no notice of it.
type ClusterSpec struct {
	// InitialCluster has the peer URL of each member by its name, the new one's too.
	InitialCluster map[string]string
	State          ClusterState
	// Token keeps clusters apart that have the same names and URLs.
	Token string
}

// quotaBytes is the size up to which the database may grow: the most that etcd's authors recommend. Their default,
// 2 GiB, is less than many a cluster that is to be restored here.
const quotaBytes = 8 << 30

// ServerArgs is the command line of a unit's server. Every option exists, with the same meaning, in etcd 3.4 to 3.7. The
// record's own EtcdArgs come last, so that they win.
func ServerArgs(r unit.Record, spec ClusterSpec) []string {
	clientURLs := strings.Join(r.ClientURLs, ",")
	var members []string
	for _, name := range slices.Sorted(maps.Keys(spec.InitialCluster)) {
		members = append(members, name+"="+spec.InitialCluster[name])
	}
	args := []string{
		"--name=" + r.Member,
		"--data-dir=" + r.DataDir,
		"--listen-client-urls=" + clientURLs,
		"--advertise-client-urls=" + clientURLs,
		"--listen-peer-urls=" + r.PeerURL,
		"--initial-advertise-peer-urls=" + r.PeerURL,
		"--initial-cluster=" + strings.Join(members, ","),
		"--initial-cluster-state=" + string(spec.State),
		"--initial-cluster-token=" + spec.Token,
		"--logger=zap",
		"--log-outputs=stderr",
		// The history of a Kubernetes cluster is compacted by its API servers, and by nobody else.
		"--auto-compaction-retention=0",
		fmt.Sprintf("--quota-backend-bytes=%d", int64(quotaBytes)),
	}
	if r.WALDir != "" {
		args = append(args, "--wal-dir="+r.WALDir)
	}
	if f := r.ServerTLS; !f.IsZero() {
		args = append(args, "--cert-file="+f.Cert, "--key-file="+f.Key, "--trusted-ca-file="+f.CA, "--client-cert-auth=true")
	}
	if f := r.PeerTLS; !f.IsZero() {
		args = append(args, "--peer-cert-file="+f.Cert, "--peer-key-file="+f.Key, "--peer-trusted-ca-file="+f.CA,
			"--peer-client-cert-auth=true")
	}
	return append(args, r.EtcdArgs...)
}
