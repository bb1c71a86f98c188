package archivefile

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
)

func TestReadSideFile(t *testing.T) {
	sum := strings.Repeat("0A", 32)
	good := `{"format": "holdfast-archive/1", "sha256": "` + sum + `", "etcd-version": "3.7.3", "colour": "blue"}`
	disk := errors.New("input/output error")
	for name, test := range map[string]struct {
		content string
		err     error
		found   bool
		want    string // what the error says; "" for none
	}{
		"good":          {good, nil, true, ""},
		"none":          {"", fs.ErrNotExist, false, ""},
		"empty":         {"", nil, false, "unexpected end of JSON input"},
		"cut":           {good[:60], nil, false, "unexpected end of JSON input"},
		"newer":         {strings.Replace(good, "/1", "/2", 1), nil, false, `its format must be "holdfast-archive/1", got "holdfast-archive/2"`},
		"somebody's":    {`{"name": "a"}`, nil, false, `its format must be "holdfast-archive/1", got ""`},
		"without a sum": {`{"format": "holdfast-archive/1"}`, nil, false, `its sha256 must be 64 hexadecimal digits, got ""`},
		"bad disk":      {"", disk, false, disk.Error()},
	} {
		side, found, err := ReadSideFile("a.tar.gz", func() ([]byte, error) { return []byte(test.content), test.err })
		if found != test.found || (err != nil) != (test.want != "") || err != nil && err.Error() != `read side file "a.tar.gz.json": `+test.want {
			t.Errorf("%s: found %v, %v, want %q", name, found, err, test.want)
		}
		if found && (side.SHA256 != strings.ToLower(sum) || side.EtcdVersion != "3.7.3") || !found && side != (SideFile{}) {
			t.Errorf("%s: %+v", name, side)
		}
	}
}
