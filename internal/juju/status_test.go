package juju

import (
	"bytes"
	"strings"
	"testing"

	"github.com/holdfast-project/holdfast/internal/api"
)

func threeUnits(t *testing.T) []UnitStatus {
	unit := func(unitName, port string) UnitStatus {
		return UnitStatus{
			Unit: name(t, unitName), Workload: WorkloadActive, Agent: AgentIdle, Machine: "0", Address: "127.0.0.1",
			Ports: []string{port}, Root: "/units/" + unitName, Message: Healthy.Message(3),
		}
	}
	units := []UnitStatus{unit("etcd/10", "40003/tcp"), unit("etcd/0", "40001/tcp"), unit("etcd/1", "40002/tcp")}
	units[2].Leader = true
	return units
}

func TestWriteStatus(t *testing.T) {
	units := threeUnits(t)
	lost := threeUnits(t)[:1]
	lost[0].Unit = name(t, "new-etcd/0")
	lost[0].Workload, lost[0].Agent = WorkloadUnknown, AgentLost
	lost[0].Message, lost[0].Ports, lost[0].Address = "", nil, ""
	status := Status{Model: "default", Applications: []AppStatus{
		NewAppStatus("etcd", "3.7.3", units),
		NewAppStatus("new-etcd", "", lost),
	}}
	got := written(t, func(w *bytes.Buffer) error { return WriteStatus(w, Tabular, status) })
	same(t, got, `App       Version  Status   Scale  Message
etcd      3.7.3    active       3  Healthy with 3 known peers
new-etcd           unknown    0/1

Unit        Workload  Agent  Address    Ports      Message
etcd/0      active    idle   127.0.0.1  40001/tcp  Healthy with 3 known peers
etcd/1*     active    idle   127.0.0.1  40002/tcp  Healthy with 3 known peers
etcd/10     active    idle   127.0.0.1  40003/tcp  Healthy with 3 known peers
new-etcd/0  unknown   lost
`)

	status.Applications = []AppStatus{NewAppStatus("etcd", "3.7.3", units[2:])}
	got = written(t, func(w *bytes.Buffer) error { return WriteStatus(w, JSON, status) })
	same(t, got, `{"model":{"name":"default"},"applications":{"etcd":{"application-status":{"current":"active",`+
		`"message":"Healthy with 3 known peers"},"scale":"1","version":"3.7.3","units":{"etcd/1":{`+
		`"workload-status":{"current":"active","message":"Healthy with 3 known peers"},"juju-status":{"current":"idle"},`+
		`"leader":true,"machine":"0","open-ports":["40002/tcp"],"public-address":"127.0.0.1","root":"/units/etcd/1"}}}}}`+"\n")
	got = written(t, func(w *bytes.Buffer) error { return WriteStatus(w, YAML, status) })
	same(t, got, `model:
  name: default
applications:
  etcd:
    application-status:
      current: active
      message: Healthy with 3 known peers
    scale: "1"
    version: 3.7.3
    units:
      etcd/1:
        workload-status:
          current: active
          message: Healthy with 3 known peers
        juju-status:
          current: idle
        leader: true
        machine: "0"
        open-ports:
        - 40002/tcp
        public-address: 127.0.0.1
        root: /units/etcd/1
`)
}

// TestArchiveInStatus: the messages say who archives and how far behind, or that nobody does.
func TestArchiveInStatus(t *testing.T) {
	standby, failed := &api.Archive{Enabled: true, Role: api.ArchiveStandby}, &api.Archive{Enabled: true, Role: api.ArchiveFailed, Error: "no rights"}
	at := func(lag float64) *api.Archive {
		return &api.Archive{Enabled: true, Role: api.ArchiveArchiver, LagSeconds: lag}
	}
	const well = "Healthy with 3 known peers"
	for name, tt := range map[string]struct {
		archives []*api.Archive // of etcd/0, etcd/1, which leads, and etcd/10
		app      string
		units    []string
	}{
		"not wanted":   {make([]*api.Archive, 3), well, []string{well, well, well}},
		"one":          {[]*api.Archive{at(0.84), standby, standby}, well + "; etcd/0 archives, 800ms behind", []string{well + "; archiving, 800ms behind", well + "; archive standby", well + "; archive standby"}},
		"far behind":   {[]*api.Archive{standby, at(75.4), nil}, well + "; etcd/1 archives, 1m15s behind", []string{well + "; archive standby", well + "; archiving, 1m15s behind", well}},
		"nobody":       {[]*api.Archive{standby, failed, standby}, well + "; nobody archives", []string{well + "; archive standby", well + "; archive failed: no rights", well + "; archive standby"}},
		"one too many": {[]*api.Archive{at(0), at(1.26), nil}, well + "; etcd/0 archives, 0s behind; etcd/1 archives, 1.3s behind", []string{well + "; archiving, 0s behind", well + "; archiving, 1.3s behind", well}},
	} {
		units := threeUnits(t)
		units[1].Archive, units[2].Archive, units[0].Archive = tt.archives[0], tt.archives[1], tt.archives[2]
		app := NewAppStatus("etcd", "3.7.3", units)
		same(t, app.Message, tt.app)
		for i, want := range tt.units {
			if app.Units[i].Message != want {
				t.Errorf("%s: %s says %q, want %q", name, app.Units[i].Unit, app.Units[i].Message, want)
			}
		}
	}
	units := threeUnits(t)[2:]
	units[0].Archive = &api.Archive{Enabled: true, Role: api.ArchiveArchiver, Cluster: "prod", Timeline: "0123456789abcdef", Revision: 12, LagSeconds: 0.5, LagRevisions: 2, SpoolBytes: 300}
	status := Status{Model: "default", Applications: []AppStatus{NewAppStatus("etcd", "3.7.3", units)}}
	got := written(t, func(w *bytes.Buffer) error { return WriteStatus(w, JSON, status) })
	if want := `"archive":{"enabled":true,"role":"archiver","cluster":"prod","timeline":"0123456789abcdef","revision":12,"lag-seconds":0.5,"lag-revisions":2,"spool-bytes":300}`; !strings.Contains(got, want) {
		t.Errorf("%s\nwants %s", got, want)
	}
	got = written(t, func(w *bytes.Buffer) error { return WriteStatus(w, YAML, status) })
	if want := "        archive:\n          enabled: true\n          role: archiver\n          cluster: prod\n          timeline: 0123456789abcdef\n          revision: 12\n          lag-seconds: 0.5\n          lag-revisions: 2\n          spool-bytes: 300\n"; !strings.Contains(got, want) {
		t.Errorf("%s\nwants %s", got, want)
	}
}

func TestNewAppStatus(t *testing.T) {
	// Later ones in the list are worse.
	order := []Workload{WorkloadActive, WorkloadWaiting, WorkloadUnknown, WorkloadBlocked, WorkloadError}
	for i, a := range order {
		for j, b := range order {
			units := threeUnits(t)
			units[0].Workload, units[0].Message = a, string(a)
			units[1].Workload, units[1].Message = b, string(b)
			app := NewAppStatus("etcd", "", units[:2])
			want := order[max(i, j)]
			if app.Status != want || app.Message != string(want) {
				t.Errorf("application of %s and %s is %s, %q, want %s", a, b, app.Status, app.Message, want)
			}
		}
	}

	units := threeUnits(t)
	units[2].Message = "the leader's"
	units[0].Agent = AgentLost
	app := NewAppStatus("etcd", "", units)
	same(t, app.Message, "the leader's")
	same(t, app.Scale, "2/3")
	if units[0].Unit.Number != 10 {
		t.Error("the caller's units were sorted")
	}
	empty := NewAppStatus("etcd", "", nil)
	same(t, string(empty.Status)+" "+empty.Scale, "unknown 0")
}

func TestHealthMessage(t *testing.T) {
	for _, test := range []struct {
		health   Health
		known    int
		want     string
		workload Workload
	}{
		{Healthy, 3, "Healthy with 3 known peers", WorkloadActive},
		{Healthy, 1, "Healthy with 1 known peer", WorkloadActive},
		{UnHealthy, 3, "UnHealthy with 3 known peers", WorkloadBlocked},
		{UnHealthy, 1, "UnHealthy with 1 known peer", WorkloadBlocked},
		{Errored, 0, "Errored with 0 known peers", WorkloadBlocked},
	} {
		same(t, test.health.Message(test.known), test.want)
		same(t, string(test.health.Workload()), string(test.workload))
	}
}
