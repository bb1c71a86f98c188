package unitaction

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/scratch"
)

// scratchTimeout bounds the start of a scratch etcd, which reads at most what one member has in its log.
const scratchTimeout = time.Minute

// startScratchEtcd starts the unit's own program on a data dir, from which it founds a new cluster of one with the v2 API.
// run is a folder for sockets and log. The caller stops it.
func (u *Unit) startScratchEtcd(ctx context.Context, run, dataDir, walDir string) (*scratch.Etcd, error) {
	args := []string{
		"--name=" + u.Record.Member, "--data-dir=" + dataDir, "--force-new-cluster", "--enable-v2",
		"--advertise-client-urls=" + strings.Join(u.Record.ClientURLs, ","), "--initial-advertise-peer-urls=" + u.Record.PeerURL,
		"--initial-cluster=" + u.Record.Member + "=" + u.Record.PeerURL,
	}
	if walDir != "" {
		args = append(args, "--wal-dir="+walDir)
	}
	return scratch.Start(ctx, scratch.Options{Program: u.Record.EtcdBinary, Args: args, Run: run, Timeout: scratchTimeout})
}

// unknownKeys stands for a number of keys that cannot be told: the v2 store has users, and wants one of them.
const unknownKeys = -1

// countV2Keys waits until a scratch etcd serves and counts its v2 keys, if it lets us.
func countV2Keys(ctx context.Context, etcd *scratch.Etcd) (int64, error) {
	keys, err := socketV2(etcd.Socket()).countKeys(ctx)
	if errors.Is(err, errV2Login) {
		return unknownKeys, nil
	}
	return keys, err
}
