package archivefile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// The side files of an archive have its name with these at the end.
const (
	SumSuffix  = ".sha256"
	SideSuffix = ".json"
)

// SideFormat is the version of the side file; docs/formats describes it.
const SideFormat = "holdfast-archive/1"

// SideFile is what <archive>.json tells of an archive, for tools and for a restore years later.
type SideFile struct {
	Format          string    `json:"format"`
	Archive         string    `json:"archive"`
	SHA256          string    `json:"sha256"`
	Size            int64     `json:"size"`
	Unit            string    `json:"unit"`
	Task            string    `json:"task"`
	KeysVersion     string    `json:"keys-version"`
	EtcdVersion     string    `json:"etcd-version"`
	StorageVersion  string    `json:"storage-version,omitempty"`
	ClusterID       string    `json:"cluster-id,omitempty"`
	MemberID        string    `json:"member-id,omitempty"`
	Revision        int64     `json:"revision,omitempty"`
	CompactRevision int64     `json:"compact-revision,omitempty"`
	Records         int64     `json:"records,omitempty"`
	BackendSize     int64     `json:"backend-size,omitempty"`
	BackendSHA256   string    `json:"backend-sha256,omitempty"`
	V2Keys          int64     `json:"v2-keys,omitempty"`
	Started         time.Time `json:"started"`
	Completed       time.Time `json:"completed"`
}

// ReadSideFile reads the side file of an archive; found is false where there is none. read gives the content of the file
// that is called as the archive with SideSuffix at the end; archive is the name that errors tell. Whether the side file is
// about this archive, its SHA256 tells.
func ReadSideFile(archive string, read func() ([]byte, error)) (side SideFile, found bool, err error) {
	data, err := read()
	if errors.Is(err, fs.ErrNotExist) {
		return SideFile{}, false, nil
	}
	if err == nil {
		err = side.decode(data)
	}
	if err != nil {
		return SideFile{}, false, fmt.Errorf("read side file %q: %w", archive+SideSuffix, err)
	}
	return side, true, nil
}

// decode takes any fields beside the known ones: a format of the same number can have more.
func (s *SideFile) decode(data []byte) error {
	if err := json.Unmarshal(data, s); err != nil {
		return err
	}
	if s.Format != SideFormat {
		return fmt.Errorf("its format must be %q, got %q", SideFormat, s.Format)
	}
	if sum, err := hex.DecodeString(s.SHA256); err != nil || len(sum) != sha256.Size {
		return fmt.Errorf("its sha256 must be 64 hexadecimal digits, got %q", s.SHA256)
	}
	s.SHA256 = strings.ToLower(s.SHA256)
	return nil
}
