package restore

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestPlanText(t *testing.T) {
	full := func() Plan {
		return Plan{
			Unit: "new-etcd/0", Member: "new-etcd-0", PeerURL: "https://127.0.0.1:2380", DataDir: "/var/lib/etcd", Target: "3.6",
			Archive: "/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz",
			SHA256:  "1dea04627812397c51ee87e313433f3102f617a9cab1d1b79698323f6459953d",
			Source:  "3.5", SourceRevision: 31597, SourceKeys: 4012,
			Live: &Live{Revision: 40000, Keys: 17}, Revision: 1000040000, Compacted: true,
			Kept:  "/var/lib/etcd/member.before-restore-2018-09-26-18.04.02",
			Notes: []string{"data of etcd 3.5 will be opened by etcd 3.6 and cannot go back"},
		}
	}
	for name, change := range map[string]func(*Plan){
		"full": func(*Plan) {},
		"down": func(p *Plan) { p.Live, p.WALDir, p.Notes = nil, "/ssd/wal", nil },
		"new":  func(p *Plan) { p.Live, p.Kept, p.Revision, p.Compacted, p.Notes = nil, "", 31597, false, nil },
	} {
		t.Run(name, func(t *testing.T) {
			p := full()
			change(&p)
			path := filepath.Join("testdata", "plan-"+name+".txt")
			if *update {
				must(t, os.WriteFile(path, []byte(p.String()), 0o644))
			}
			want, err := os.ReadFile(path)
			must(t, err)
			if d := cmp.Diff(string(want), p.String()); d != "" {
				t.Errorf("run `go test ./internal/restore -update` if this is meant:\n%s", d)
			}
		})
	}
}

func TestParseMinor(t *testing.T) {
	for in, want := range map[string]string{
		"3.5": "3.5", "3.5.35": "3.5", "v3.4.23": "3.4", "3.6.0-rc.1": "3.6", "3.10.2+git": "3.10",
		"": "", "3": "", "3.": "", "3.5.": "", "3.5.1.2": "", " 3.5": "", "3.5 ": "", "3.x": "", "-3.5": "", "3.99999": "",
	} {
		got, err := ParseMinor(in)
		if want == "" && (err == nil || !got.IsZero() || !strings.Contains(err.Error(), `"`+in+`"`)) || want != "" && (err != nil || got.String() != want) {
			t.Errorf("ParseMinor(%q) = %v, %v; want %q", in, got, err, want)
		}
	}
}

func TestCheckBump(t *testing.T) {
	t.Parallel()
	const most = history.Revision(math.MaxInt64)
	for _, tt := range []struct {
		source, highest, bump history.Revision
		fine                  bool
	}{
		{5, 0, 0, true}, {5, 9, 1, true}, {5, 0, MostBump, true}, {5, 0, MostBump + 1, false}, {5, 0, most, false}, {5, 0, -1, false},
		{most, 0, 0, false}, {5, most - 5, 1, false}, {most / 2, 0, MostBump, true}, {most/2 + 10, 0, MostBump, false},
	} {
		err := CheckBump(tt.source, tt.highest, tt.bump)
		if (err == nil) != tt.fine {
			t.Errorf("%+v: %v", tt, err)
		}
		if next := NextRevision(tt.source, tt.highest, tt.bump); tt.fine && next < tt.source {
			t.Errorf("%+v goes on at %d", tt, next)
		}
	}
}

func TestCompatible(t *testing.T) {
	for _, tt := range []struct{ source, target, note, err string }{
		{source: "3.5", target: "3.5"},
		{source: "3.4", target: "3.5", note: "data of etcd 3.4 will be opened by etcd 3.5"},
		{source: "3.4", target: "3.7", note: "data of etcd 3.4 will be opened by etcd 3.7"},
		{source: "3.9", target: "3.10", note: "data of etcd 3.9 will be opened by etcd 3.10"},
		{source: "3.6", target: "3.5", err: "data of etcd 3.6 cannot be opened by etcd 3.5"},
		{source: "4.0", target: "3.7", err: "data of etcd 4.0 cannot be opened by etcd 3.7"},
		{source: "3.7", target: "4.0", err: "data of etcd 3.7 cannot be opened by etcd 4.0"},
		{source: "", target: "3.7", err: "source-version="},
		{source: "3.7", target: "", err: "is not known"},
	} {
		var versions [2]Minor
		for i, s := range []string{tt.source, tt.target} {
			if s != "" {
				var err error
				versions[i], err = ParseMinor(s)
				must(t, err)
			}
		}
		note, err := Compatible(versions[0], versions[1])
		text := ""
		if err != nil {
			text = err.Error()
		}
		if (tt.note == "") != (note == "") || !strings.HasPrefix(note, tt.note) || (tt.err == "") != (text == "") || !strings.Contains(text, tt.err) {
			t.Errorf("Compatible(%q, %q) = %q, %q", tt.source, tt.target, note, text)
		}
	}
}
