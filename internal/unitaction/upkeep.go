package unitaction

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/history"
	"github.com/holdfast-project/holdfast/internal/member"
)

// upkeepTimeout bounds compaction and defragmentation; the latter rewrites the whole backend, at 30 MB/s or better.
const upkeepTimeout = 10 * time.Minute

type health struct{ *Unit }

func (a *health) Spec() action.Spec {
	return action.Spec{Name: "health", Description: "Report the health of the cluster, member by member."}
}

func (a *health) Run(ctx context.Context, call *action.Call) error {
	report := member.CheckHealth(ctx, a.Record.ClientURLs[0], a.TLS)
	call.Set("output", report.String())
	if report.ListError != nil {
		return report.ListError
	}
	if !report.Healthy() {
		lines := strings.Split(report.String(), "\n")
		return errors.New(lines[len(lines)-1])
	}
	return nil
}

type alarmList struct{ *Unit }

func (a *alarmList) Spec() action.Spec {
	return action.Spec{Name: "alarm-list", Description: "List the alarms of the cluster."}
}

func (a *alarmList) Run(ctx context.Context, call *action.Call) error {
	return a.listAlarms(ctx, call, (*member.Client).Alarms)
}

type alarmDisarm struct{ *Unit }

func (a *alarmDisarm) Spec() action.Spec {
	return action.Spec{Name: "alarm-disarm", Description: "Disarm all alarms of the cluster."}
}

func (a *alarmDisarm) Run(ctx context.Context, call *action.Call) error {
	return a.listAlarms(ctx, call, (*member.Client).DisarmAlarms)
}

// listAlarms sets the alarms that ask gives as the output, one a line.
func (u *Unit) listAlarms(ctx context.Context, call *action.Call, ask func(*member.Client, context.Context) ([]member.Alarm, error)) error {
	client, err := u.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := u.status(ctx, client); err != nil { // before anything that would wait for a member that is not there
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	alarms, err := ask(client, bounded)
	if err != nil {
		return err
	}
	var lines []string
	for _, alarm := range alarms {
		lines = append(lines, alarm.String())
	}
	call.Set("output", strings.Join(lines, "\n"))
	return nil
}

type compact struct{ *Unit }

func (a *compact) Spec() action.Spec {
	return action.Spec{
		Name:        "compact",
		Description: "Drop the history below a revision.",
		Params: []action.Param{
			{Name: "physical", Type: action.Boolean, Default: false, Description: "Wait until the space is free for reuse."},
			{Name: "revision", Type: action.Integer, Default: int64(0), Description: "Revision to compact to. 0 means the latest one."},
		},
	}
}

func (a *compact) Run(ctx context.Context, call *action.Call) error {
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	revision, err := a.compactRevision(ctx, client, call.Params.Int("revision"))
	if err != nil {
		return err
	}
	if err := client.Compact(ctx, revision, call.Params.Bool("physical")); err != nil {
		return err
	}
	call.Set("output", fmt.Sprintf("compacted revision %s", revision))
	return nil
}

// compactRevision gives the revision to compact to. It asks the member in any case: one that does not answer is told at once,
// not when the time for the compaction is up.
func (a *compact) compactRevision(ctx context.Context, client *member.Client, given int64) (history.Revision, error) {
	if given < 0 {
		return 0, fmt.Errorf("revision must not be negative, given %d", given)
	}
	status, err := a.status(ctx, client)
	if err != nil {
		return 0, fmt.Errorf("determine latest revision for compaction: %w", err)
	}
	if given > 0 {
		return history.Revision(given), nil
	}
	return status.Revision, nil
}

type defrag struct{ *Unit }

func (a *defrag) Spec() action.Spec {
	return action.Spec{Name: "defrag", Description: "Defragment the backend of this unit's member. It serves nothing meanwhile."}
}

func (a *defrag) Run(ctx context.Context, call *action.Call) error {
	client, err := a.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := a.status(ctx, client); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	if err := client.Defragment(ctx); err != nil {
		return err
	}
	call.Set("output", fmt.Sprintf("Finished defragmenting etcd member[%s]", client.Endpoint()))
	return nil
}
