package foreign

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Tools that can be told by names.
const (
	K3s         = "k3s or RKE2"
	EtcdManager = "etcd-manager"
	Gardener    = "Gardener etcd-backup-restore"
	CharmedEtcd = "charmed-etcd-operator"
)

// What tells when a backup was taken.
const (
	// ByName is the name of the file, of what is in the zip, or of the folder where that is a part of the backup.
	ByName = "name"
	// ByMeta is the metadata beside the file.
	ByMeta = "metadata"
	// ByEntry is the time of ./db in an archive: for a copy its own, for what Holdfast made the time of the snapshot.
	ByEntry = "archive entry"
	// ByGzip is the time in the header of the gzip file: that of the file that was compressed.
	ByGzip = "gzip header"
)

// Names of the files that tools make. Unix times have ten digits until the year 2286.
var (
	// Full-START-LAST-TIME: revisions of at least eight digits, how it is compressed, and a mark of the last one.
	gardenerName = regexp.MustCompile(`^(?:Full|Incr)-[0-9]{8,}-[0-9]{8,}-([0-9]{10})(?:\.gz|\.zlib|\.Z)?(?:\.final)?$`)
	// NAME-NODE-TIME: NAME can be chosen, so that only the two that k3s has by itself tell where NODE begins.
	k3sName   = regexp.MustCompile(`^(?:etcd-snapshot|on-demand)-([A-Za-z0-9][A-Za-z0-9.-]{0,252})-([0-9]{10})(?:\.zip)?$`)
	k3sChosen = regexp.MustCompile(`^.+-([0-9]{10})(?:\.zip)?$`)
	// charmedName is an object of the operator, the time with nothing around it.
	charmedName = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$`)
	// managerFolder is that of a backup of etcd-manager: the time, and a number against equal ones.
	managerFolder = regexp.MustCompile(`^(.+Z)-[0-9]{6}$`)
	// managerFile is the file in it; the second name is an old one.
	managerFile = regexp.MustCompile(`^etcd\.backup\.(gz|tgz)$`)
	// versionText is a version of etcd; what it accepts can be shown anywhere.
	versionText = regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[0-9A-Za-z.]{1,20})?$`)
)

const (
	managerMeta = "_etcd_backup.meta"
	// mostMeta is in bytes; what etcd-manager writes has some hundreds.
	mostMeta = 64 << 10
)

// named takes what a name tells.
func (f *File) named(base string) {
	if m := gardenerName.FindStringSubmatch(base); m != nil {
		f.Tool = Gardener
		f.takenUnix(m[1], ByName)
	} else if m := k3sName.FindStringSubmatch(base); m != nil {
		f.Tool, f.Node = K3s, m[1]
		f.takenUnix(m[2], ByName)
	} else if m := k3sChosen.FindStringSubmatch(base); m != nil {
		f.takenUnix(m[1], ByName)
	} else if charmedName.MatchString(base) {
		if t, err := time.Parse(time.RFC3339, base); err == nil {
			f.Tool = CharmedEtcd
			f.taken(t, ByName)
		}
	}
}

// taken takes a time, unless there is one already.
func (f *File) taken(t time.Time, from string) {
	if f.Taken.IsZero() {
		f.Taken, f.TakenFrom = t.UTC(), from
	}
}

// takenUnix takes a time in seconds.
func (f *File) takenUnix(seconds, from string) bool {
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < 1e9 || n >= 1e10 {
		return false
	}
	f.taken(time.Unix(n, 0), from)
	return true
}

// managerInfo is what is used of etcd-manager's metadata. It is protobuf's JSON, which has two names for a field, and
// numbers of 64 bits in quotes.
type managerInfo struct {
	Version    string      `json:"etcdVersion"`
	OldVersion string      `json:"etcd_version"`
	Timestamp  json.Number `json:"timestamp"`
}

// readMeta takes what lies beside a backup of etcd-manager.
func (f *File) readMeta(name string) error {
	if !managerFile.MatchString(filepath.Base(name)) {
		return nil
	}
	f.Tool = EtcdManager
	folder := filepath.Dir(name)
	if err := f.managerMeta(filepath.Join(folder, managerMeta)); err != nil {
		return err
	}
	if absolute, err := filepath.Abs(folder); err == nil {
		folder = absolute
	}
	if m := managerFolder.FindStringSubmatch(filepath.Base(folder)); m != nil {
		if t, err := time.Parse(time.RFC3339, m[1]); err == nil {
			f.taken(t, ByName)
		}
	}
	return nil
}

func (f *File) managerMeta(name string) (err error) {
	file, size, err := openRegular(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if size > mostMeta {
		return fmt.Errorf("read %q: it has %d bytes, above the limit of %d", name, size, mostMeta)
	}
	data, err := io.ReadAll(io.LimitReader(file, mostMeta))
	if err != nil {
		return err
	}
	return f.takeMeta(name, data)
}

func (f *File) takeMeta(name string, data []byte) error {
	var info managerInfo
	if err := json.Unmarshal(data, &info); err != nil {
		return fmt.Errorf("read %q: %w", name, err)
	}
	version := info.Version
	if version == "" {
		version = info.OldVersion
	}
	version = strings.TrimPrefix(version, "v")
	switch {
	case version != "" && !versionText.MatchString(version):
		return fmt.Errorf("read %q: %q is no version of etcd", name, version)
	case strings.HasPrefix(version, "2."):
		return fmt.Errorf("%w (%q says etcd %s)", ErrDataDir, name, version)
	}
	f.EtcdVersion = version
	if stamp := info.Timestamp.String(); stamp != "" && stamp != "0" && !f.takenUnix(stamp, ByMeta) {
		return fmt.Errorf("read %q: %q is no time in seconds", name, stamp)
	}
	return nil
}
