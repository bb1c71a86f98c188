package juju

import (
	"bytes"
	"testing"
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
