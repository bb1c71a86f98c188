package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/unit"
)

func (a *app) start() *cobra.Command {
	return &cobra.Command{
		Use:   "start [APPLICATION]",
		Short: "Start the agents of this machine that do not run, and with them their etcd",
		Long: "Start the agents of this machine that do not run, after a restart of the machine for example. Each starts its etcd,\n" +
			"or goes on with the one that runs. It returns when they answer. It exits 1 when an agent runs and does not answer, or\n" +
			"when a unit cannot come up by a start, and says what to do.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			provider, err := a.provider()
			if err != nil {
				return err
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			names, err := m.units(strings.Join(args, ""))
			if err != nil {
				return err
			}
			if len(names) == 0 {
				a.sayEmpty(m)
				return nil
			}
			started, err := provider.Start(c.Context(), names)
			if err != nil {
				return err
			}
			if len(started) > 0 {
				if err := awaitAgents(c.Context(), m, provider, started); err != nil {
					return err
				}
				fmt.Fprintf(a.Stdout, "started %s\n", joinNames(started))
			}
			if err := a.stillDown(c.Context(), m, provider, names); err != nil {
				return err
			}
			if len(started) == 0 {
				fmt.Fprintln(a.Stdout, "every agent of this machine runs")
			}
			return nil
		},
	}
}

// sayEmpty says that there is nothing, and where that was looked for.
func (a *app) sayEmpty(m *model) {
	fmt.Fprintf(a.Stderr, "Model %q is empty.\n", m.inventory.Model)
	home, err := a.home()
	if err != nil {
		return
	}
	missing := ""
	if _, err := os.Stat(home); errors.Is(err, os.ErrNotExist) {
		missing = ", which does not exist"
	}
	fmt.Fprintf(a.Stderr, "hint: its home is %s%s; %s deploy etcd deploys a cluster, HOLDFAST_HOME names another home\n", home, missing, a.Program)
}

// stillDown is the error about units that a start does not bring up.
func (a *app) stillDown(ctx context.Context, m *model, provider *deploy.Provider, names []unit.Name) error {
	states := askAll(ctx, m, names, func(ctx context.Context, c *api.Client) (api.Unit, error) { return c.Unit(ctx) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	memberships := map[string]deploy.Membership{}
	var problems, next []string
	for _, state := range states {
		if state.err == nil && state.value.Etcd.Error == "" {
			continue
		}
		application := state.name.Application
		membership, asked := memberships[application]
		if !asked {
			var err error
			if membership, err = provider.Membership(ctx, application); err != nil {
				return err
			}
			memberships[application] = membership
		}
		problem, hint, err := a.whyDown(ctx, provider, state, membership)
		if err != nil {
			return err
		}
		if problem != "" {
			problems, next = append(problems, problem), append(next, hint)
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return hinted{errors.New(strings.Join(problems, "; ")), strings.Join(slices.Compact(next), "; ")}
}

// whyDown says of one unit what is wrong that no start puts right, and what does. Both are empty where nothing is, or where
// that is not known here.
func (a *app) whyDown(ctx context.Context, provider *deploy.Provider, state answer[api.Unit], membership deploy.Membership) (problem, hint string, err error) {
	name := state.name
	remove := fmt.Sprintf("%s remove-unit %s", a.Program, name)
	agent, err := provider.AgentProcess(ctx, name)
	switch {
	case err != nil || agent.Elsewhere:
		return "", "", err
	case slices.Contains(membership.Outsiders, name):
		return fmt.Sprintf("unit %q is not a member of the cluster: an add-unit was cut off", name), remove, nil
	case agent.Unmade && membership.NoQuorum:
		return fmt.Sprintf("unit %q has no agent: its folder %s is gone", name, provider.Folder(name)),
			"bring the folder back, or restore a snapshot into a new application", nil
	case agent.Unmade:
		return fmt.Sprintf("unit %q has no agent: an add-unit was cut off, or its folder %s is gone", name, provider.Folder(name)), remove, nil
	case state.err != nil && agent.PID != 0:
		return fmt.Sprintf("the agent of unit %q runs as process %d and does not answer", name, agent.PID),
			fmt.Sprintf("kill -9 %d, then %s start %s; its etcd goes on", agent.PID, a.Program, name.Application), nil
	case state.err != nil:
		return fmt.Sprintf("the agent of unit %q does not run any more", name), fmt.Sprintf("%s start %s", a.Program, name.Application), nil
	}
	return "", "", nil
}

// agentTimeout is how long an agent that was started may take to answer: it first undoes what a crash has left.
const agentTimeout = 30 * time.Second

// awaitAgents waits until the agents of all these units answer.
func awaitAgents(ctx context.Context, m *model, provider *deploy.Provider, names []unit.Name) error {
	deadline := time.Now().Add(agentTimeout)
	for {
		answers := askAll(ctx, m, names, func(ctx context.Context, c *api.Client) ([]action.Spec, error) { return c.Actions(ctx) })
		i := slices.IndexFunc(answers, func(one answer[[]action.Spec]) bool { return one.err != nil })
		switch {
		case i < 0:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("the agent of unit %q was started and does not answer after %s: %w%s", answers[i].name, agentTimeout,
				answers[i].err, agentWords(provider, answers[i].name, answers[i].err))
		}
		pause(ctx, 100*time.Millisecond)
	}
}
