package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/member"
)

// getUnit tells the state of the unit. It always answers: what cannot be found out is said in it.
func (a *Agent) getUnit(_ http.ResponseWriter, r *http.Request) (any, error) {
	state := api.Unit{
		Unit: a.config.Unit, Holdfast: a.version, Root: a.config.Record.Root,
		Etcd: a.etcdState(r.Context()), Resources: a.resources.all(),
	}
	if archive := a.archive.State(); archive.Role != api.ArchiveOff {
		state.Archive = &archive
	}
	for _, task := range a.runner.Tasks() {
		if task.Status == action.Running || task.Status == action.Aborting {
			state.Busy = task.Action
		}
	}
	return state, nil
}

func (a *Agent) etcdState(ctx context.Context) api.Etcd {
	ctx, cancel := context.WithTimeout(ctx, member.ProbeTimeout)
	defer cancel()
	var state api.Etcd
	process, running, err := a.child.Running(ctx)
	if err != nil {
		state.Error = err.Error()
		return state
	}
	if !running {
		state.Error = "etcd does not run"
		return state
	}
	state.PID, state.Started = process.PID, process.StartTime
	if err := a.askMember(ctx, &state); err != nil {
		state.Error = err.Error()
	}
	return state
}

// askMember fills in what the member says of itself and of its cluster.
func (a *Agent) askMember(ctx context.Context, state *api.Etcd) error {
	url := a.config.Record.ClientURLs[0]
	if err := member.Listens(ctx, url); err != nil {
		return fmt.Errorf("etcd runs and takes no clients yet: %w", err)
	}
	client, err := member.Dial(url, a.etcdTLS)
	if err != nil {
		return err
	}
	defer client.Close()
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	state.Version, state.Revision = status.Version, int64(status.Revision)
	state.ClusterID, state.MemberID = status.ClusterID.String(), status.MemberID.String()
	state.Leader, state.Learner = status.Leader == status.MemberID, status.Learner
	if status.Learner {
		return errors.New("its member is a learner, without a vote yet")
	}
	health := member.CheckHealth(ctx, url, a.etcdTLS)
	if health.ListError != nil {
		return health.ListError
	}
	state.Members, state.Healthy = len(health.Members), health.HealthyMembers()
	return nil
}
