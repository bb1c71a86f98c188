package deploy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

const (
	// pollStep is the pause between two looks at something that takes a while.
	pollStep = 200 * time.Millisecond
	// catchUpTimeout is how long a learner may take to become a voting member: it fetches the whole backend.
	catchUpTimeout = 10 * time.Minute
	// callTimeout bounds one call to a member.
	callTimeout = 10 * time.Second
)

// AddUnit adds one unit to a running application: as a learner first, which cannot hurt the quorum, and as a voting member
// once it has caught up. When it fails before that, the learner is taken out again; the unit stays in the inventory for a
// look at it.
func (p *Provider) AddUnit(ctx context.Context, application string) (unit.Name, error) {
	inv, err := p.Inventory.View()
	if err != nil {
		return unit.Name{}, err
	}
	cluster, err := p.dialHealthy(ctx, inv, application)
	if err != nil {
		return unit.Name{}, err
	}
	defer cluster.Close()
	name, err := p.newRecord(application)
	if err != nil {
		return unit.Name{}, err
	}
	if inv, err = p.Inventory.View(); err != nil {
		return name, err
	}
	record, err := inv.Unit(name)
	if err != nil {
		return name, err
	}
	p.say("%s: joining as a learner", name)
	id, members, err := addLearner(ctx, cluster, record.PeerURL)
	if err != nil {
		// The member that did not answer in time may have added it all the same.
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_, gone := removeMember(cleaning, cluster, record)
		return unit.Name{}, errors.Join(fmt.Errorf("add unit to %q: %w", application, err), gone, p.forget(name))
	}
	if err := p.join(ctx, inv, name, members, cluster, id); err != nil {
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return name, &HalfAddedError{Name: name, Err: fmt.Errorf("add unit %q: %w", name, err), Left: cluster.Remove(cleaning, id)}
	}
	p.say("%s: voting member", name)
	return name, p.settle(ctx)
}

// HalfAddedError means that a unit was made and did not become a voting member.
type HalfAddedError struct {
	Name unit.Name
	Err  error
	// Left is why its learner could not be taken out of the cluster again. Nil means that it was.
	Left error
}

// Error gives what happened, and what could not be undone.
func (e *HalfAddedError) Error() string { return errors.Join(e.Err, e.Left).Error() }

func (e *HalfAddedError) Unwrap() []error { return []error{e.Err, e.Left} }

// newRecord adds a unit to the inventory that runs what the application's other units run.
func (p *Provider) newRecord(application string) (name unit.Name, err error) {
	err = p.Inventory.Update(func(inv *inventory.Inventory) error {
		names, err := inv.Units(application)
		if err != nil {
			return err
		}
		model, err := inv.Unit(names[0])
		if err != nil {
			return err
		}
		name, err = p.addRecord(inv, application, Options{
			EtcdBinary: model.EtcdBinary, EtcdTools: model.EtcdTools, EtcdArgs: model.EtcdArgs,
		})
		return err
	})
	return name, err
}

func (p *Provider) forget(name unit.Name) error {
	return p.Inventory.Update(func(inv *inventory.Inventory) error { return inv.RemoveUnit(name) })
}

// settleTimeout is how long a cluster may take to accept a change of its membership: etcd wants all members to have been
// connected for five seconds, which the one added before was not.
const settleTimeout = time.Minute

func addLearner(ctx context.Context, cluster *member.Client, peerURL string) (id member.ID, members []member.Member, err error) {
	err = poll(ctx, settleTimeout, func(ctx context.Context) error {
		id, members, err = cluster.AddLearner(ctx, peerURL)
		return err
	})
	return id, members, err
}

// join starts the new unit and makes its member a voting one.
func (p *Provider) join(ctx context.Context, inv *inventory.Inventory, name unit.Name, members []member.Member, cluster *member.Client, id member.ID) error {
	record, err := inv.Unit(name)
	if err != nil {
		return err
	}
	how := config.Cluster{Members: map[string]string{record.Member: record.PeerURL}, State: config.Existing}
	for _, m := range members {
		if m.ID != id && len(m.PeerURLs) > 0 {
			how.Members[m.Name] = m.PeerURLs[0]
		}
	}
	if err := p.prepare(inv, name, how); err != nil {
		return err
	}
	if err := p.startAgent(ctx, name); err != nil {
		return err
	}
	return poll(ctx, catchUpTimeout, func(ctx context.Context) error { return cluster.Promote(ctx, id) })
}

// poll tries until it works or fails for a reason that does not pass by itself, and gives the last error when the time is
// up.
func poll(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, callTimeout)
		err := try(attempt)
		done()
		if err == nil || !errors.Is(err, member.ErrNotReady) {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("gave up after %s: %w", limit, err)
			}
			return context.Cause(ctx)
		case <-time.After(pollStep):
		}
	}
}

// EtcdTLS gives the client settings for the etcd members of this home.
func (p *Provider) EtcdTLS() (*tls.Config, error) {
	return pki.ClientTLS(pki.Files(OperatorFolder(p.Home), "etcd"))
}

// dialHealthy connects to a member of the application that serves with a quorum behind it.
func (p *Provider) dialHealthy(ctx context.Context, inv *inventory.Inventory, application string, except ...unit.Name) (*member.Client, error) {
	names, err := inv.Units(application)
	if err != nil {
		return nil, err
	}
	config, err := p.EtcdTLS()
	if err != nil {
		return nil, err
	}
	failed := fmt.Errorf("application %q has no healthy member", application)
	for _, name := range names {
		if len(except) > 0 && name == except[0] {
			continue
		}
		record, err := inv.Unit(name)
		if err != nil {
			return nil, err
		}
		client, err := member.Dial(record.ClientURLs[0], config)
		if err != nil {
			return nil, err
		}
		probing, cancel := context.WithTimeout(ctx, member.ProbeTimeout)
		err = client.Probe(probing)
		cancel()
		if err == nil {
			return client, nil
		}
		failed = errors.Join(failed, fmt.Errorf("unit %q: %w", name, err), client.Close())
	}
	return nil, failed
}

// stop ends the agent first, which would start the etcd again, and then the etcd.
func (p *Provider) stop(ctx context.Context, name unit.Name) error {
	if _, err := os.Stat(filepath.Join(p.folder(name), "state")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	agent, err := p.agentProcess(name)
	if err != nil {
		return err
	}
	etcd, err := p.etcdProcess(name)
	if err != nil {
		return err
	}
	if err := agent.Stop(ctx); err != nil {
		return err
	}
	return etcd.Stop(ctx)
}

// Destroy stops the units of an application and deletes them with their data. What it is about to delete is for the caller
// to say and to ask about. It can be repeated after it was cut off.
func (p *Provider) Destroy(ctx context.Context, application string) error {
	inv, err := p.Inventory.View()
	if err != nil {
		return err
	}
	names, err := inv.Units(application)
	if err != nil {
		return err
	}
	for _, name := range names {
		p.say("%s: stopping", name)
		if err := p.stop(ctx, name); err != nil {
			return fmt.Errorf("destroy unit %q: %w", name, err)
		}
	}
	for _, name := range names {
		if err := os.RemoveAll(p.folder(name)); err != nil {
			return fmt.Errorf("destroy unit %q: %w", name, err)
		}
	}
	return p.Inventory.Update(func(inv *inventory.Inventory) error { return inv.RemoveApplication(application) })
}

// Folder is where a unit's files are.
func (p *Provider) Folder(name unit.Name) string { return p.folder(name) }
