package deploy

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// Membership compares the units of an application with the members of its cluster.
type Membership struct {
	// NoQuorum means that no member answers with a quorum behind it. Nothing is known then, and nothing can change.
	NoQuorum bool
	// Outsiders are units whose member the cluster does not have, Learners those whose member has no vote: what an add-unit
	// that was cut off leaves.
	Outsiders, Learners []unit.Name
}

// Membership asks the first member that answers with a quorum.
func (p *Provider) Membership(ctx context.Context, application string) (found Membership, err error) {
	inv, err := p.Inventory.View()
	if err != nil {
		return found, err
	}
	names, err := inv.Units(application)
	if err != nil {
		return found, err
	}
	records := make([]unit.Record, len(names))
	for i, name := range names {
		if records[i], err = inv.Unit(name); err != nil {
			return found, err
		}
	}
	members := p.firstMembers(ctx, records)
	if members == nil {
		return Membership{NoQuorum: true}, context.Cause(ctx)
	}
	for i, name := range names {
		at := slices.IndexFunc(members, func(m member.Member) bool { return slices.Contains(m.PeerURLs, records[i].PeerURL) })
		switch {
		case at < 0:
			found.Outsiders = append(found.Outsiders, name)
		case members[at].Learner:
			found.Learners = append(found.Learners, name)
		}
	}
	return found, nil
}

// firstMembers asks all units at once who is a member and gives the first answer that has a quorum behind it, nil when none
// has.
func (p *Provider) firstMembers(ctx context.Context, records []unit.Record) []member.Member {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answers := make(chan []member.Member)
	for _, record := range records {
		go func() { answers <- p.members(ctx, record) }()
	}
	var first []member.Member
	for range records { // also those that lost: they return soon once ctx has ended
		if one := <-answers; one != nil && first == nil {
			first = one
			cancel()
		}
	}
	return first
}

// members asks one unit; nil is no answer. A learner gives none.
func (p *Provider) members(ctx context.Context, record unit.Record) []member.Member {
	url := record.ClientURLs[0]
	if member.Listens(ctx, url) != nil {
		return nil
	}
	config, err := p.EtcdTLS()
	if err != nil {
		return nil
	}
	client, err := member.Dial(url, config)
	if err != nil {
		return nil
	}
	defer client.Close()
	if lacks, err := client.LacksQuorum(ctx); err != nil || lacks {
		return nil // before etcd 3.5 it would tell what it has heard of
	}
	members, err := client.Members(ctx)
	if err != nil {
		return nil
	}
	return members
}

// AgentProcess is what this machine knows of a unit's agent, without asking it.
type AgentProcess struct {
	// Elsewhere means that the unit is not one of this home.
	Elsewhere bool
	// Unmade means that it is, and that there is nothing to start.
	Unmade bool
	// PID is the agent's process, 0 when none runs.
	PID int
}

// lookTimeout bounds the look at a process record.
const lookTimeout = 5 * time.Second

// AgentProcess looks at the process of a unit's agent.
func (p *Provider) AgentProcess(ctx context.Context, name unit.Name) (found AgentProcess, err error) {
	if _, err := os.Stat(p.ConfigFile(name)); errors.Is(err, os.ErrNotExist) {
		inv, err := p.Inventory.View()
		if err != nil {
			return found, err
		}
		record, err := inv.Unit(name)
		ours := strings.HasPrefix(record.Root, p.folder(name)+string(os.PathSeparator))
		return AgentProcess{Elsewhere: !ours, Unmade: ours}, err
	}
	agent, err := p.agentProcess(name)
	if err != nil {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	process, _, err := agent.Running(ctx)
	return AgentProcess{PID: process.PID}, err
}
