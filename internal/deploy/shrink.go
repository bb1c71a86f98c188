package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// DownError means that no unit can be removed, because of others that etcd would then have to count on.
type DownError struct {
	Application string
	// Down are the units whose etcd does not answer.
	Down []unit.Name
	// NoQuorum means that none of the others has a quorum: no membership can change at all.
	NoQuorum bool
}

// Error names the units.
func (e *DownError) Error() string {
	names := make([]string, len(e.Down))
	for i, name := range e.Down {
		names[i] = name.String()
	}
	text := strings.Join(names, ", ") + " does not answer"
	if len(names) > 1 {
		text = strings.Join(names, ", ") + " do not answer"
	}
	switch {
	case e.NoQuorum && len(names) == 0:
		text = e.Application + " has no quorum"
	case e.NoQuorum:
		text = e.Application + " has no quorum: " + text
	}
	return "nothing was removed: " + text
}

// CheckRemovable looks whether units can be removed, and gives them in the order to do it in: what does not answer goes
// first. etcd refuses a removal that leaves too few live members, but only after a long wait and without a name. The error
// is a *DownError while the etcd of a unit that is to stay does not answer.
func (p *Provider) CheckRemovable(ctx context.Context, names []unit.Name) ([]unit.Name, error) {
	inv, err := p.Inventory.View()
	if err != nil {
		return nil, err
	}
	down := map[unit.Name]bool{}
	applications, err := checkWords(inv, names)
	if err != nil {
		return nil, err
	}
	for _, application := range applications {
		if err := p.checkOthers(ctx, inv, application, names, down); err != nil {
			return nil, err
		}
	}
	ordered := slices.Clone(names)
	slices.SortStableFunc(ordered, func(a, b unit.Name) int {
		switch {
		case down[a] == down[b]:
			return 0
		case down[a]:
			return -1
		}
		return 1
	})
	return ordered, nil
}

// checkWords refuses units that are not there, that are named twice, and the last ones of an application, and gives the
// applications.
func checkWords(inv *inventory.Inventory, names []unit.Name) (applications []string, err error) {
	for i, name := range names {
		if _, err := inv.Unit(name); err != nil {
			return nil, fmt.Errorf("nothing was removed: %w", err)
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("nothing was removed: unit %q is named twice", name)
		}
		if !slices.Contains(applications, name.Application) {
			applications = append(applications, name.Application)
		}
	}
	for _, application := range applications {
		units, err := inv.Units(application)
		if err != nil {
			return nil, err
		}
		if stays := slices.ContainsFunc(units, func(n unit.Name) bool { return !slices.Contains(names, n) }); !stays {
			return nil, &LastError{Application: application}
		}
	}
	return applications, nil
}

// LastError means that a removal would leave an application without units.
type LastError struct{ Application string }

// Error says what to do instead.
func (e *LastError) Error() string {
	return fmt.Sprintf("nothing was removed: no unit of application %q would be left; destroy the application instead", e.Application)
}

// checkOthers asks all units of an application and adds those that do not answer to down. The error is about those that
// are not to be removed.
func (p *Provider) checkOthers(ctx context.Context, inv *inventory.Inventory, application string, removed []unit.Name, down map[unit.Name]bool) error {
	names, err := inv.Units(application)
	if err != nil {
		return err
	}
	states := make([]state, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		record, err := inv.Unit(name)
		if err != nil {
			return err
		}
		asking.Go(func() { states[i] = p.state(ctx, record) })
	}
	asking.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	found := DownError{Application: application, NoQuorum: true}
	others, blocking := 0, false
	for i, name := range names {
		down[name] = states[i] == silent
		stays := !slices.Contains(removed, name)
		if down[name] {
			found.Down = append(found.Down, name)
		}
		if !stays {
			continue
		}
		others++
		blocking = blocking || states[i] != serving
		found.NoQuorum = found.NoQuorum && states[i] != serving
	}
	if others == 0 || !blocking {
		return nil
	}
	if !found.NoQuorum {
		found.Down = nil
		for i, name := range names {
			if states[i] != serving && !slices.Contains(removed, name) {
				found.Down = append(found.Down, name)
			}
		}
	}
	return &found
}

// state is how a unit's etcd answers.
type state int

const (
	silent  state = iota // it does not
	alone                // without a quorum
	serving              // with one
)

func (p *Provider) state(ctx context.Context, record unit.Record) state {
	ctx, cancel := context.WithTimeout(ctx, member.ProbeTimeout)
	defer cancel()
	if member.Listens(ctx, record.ClientURLs[0]) != nil {
		return silent
	}
	config, err := p.EtcdTLS()
	if err != nil {
		return silent
	}
	client, err := member.Dial(record.ClientURLs[0], config)
	if err != nil {
		return silent
	}
	defer client.Close()
	lacks, err := client.LacksQuorum(ctx)
	switch {
	case err != nil:
		return silent
	case lacks:
		return alone
	}
	return serving
}

// Removed is what has become of a unit.
type Removed struct {
	// KeptAt is the folder with its files, "" when it had none.
	KeptAt string
	// Voting is how many voting members the cluster has left.
	Voting int
}

// RemoveUnit takes a unit's member out of the cluster, stops its processes and sets its folder aside. It can be repeated
// after it was cut off.
func (p *Provider) RemoveUnit(ctx context.Context, name unit.Name) (done Removed, err error) {
	inv, err := p.Inventory.View()
	if err != nil {
		return done, err
	}
	record, err := inv.Unit(name)
	if err != nil {
		return done, err
	}
	if len(inv.Applications[name.Application].Units) == 1 {
		return done, &LastError{Application: name.Application}
	}
	cluster, err := p.dialHealthy(ctx, inv, name.Application, name)
	if err != nil {
		return done, err
	}
	defer cluster.Close()
	if err := poll(ctx, settleTimeout, func(ctx context.Context) (err error) {
		done.Voting, err = removeMember(ctx, cluster, record)
		return err
	}); err != nil {
		return done, fmt.Errorf("remove unit %q: %w", name, err)
	}
	if err := p.stop(ctx, name); err != nil {
		return done, err
	}
	done.KeptAt = filepath.Join(p.removedFolder(), name.Dir()+"-"+time.Now().UTC().Format(removedStamp))
	if err := durable.MkdirAll(filepath.Dir(done.KeptAt), 0o700); err != nil {
		return done, err
	}
	if err := durable.Rename(p.folder(name), done.KeptAt); errors.Is(err, os.ErrNotExist) {
		done.KeptAt = "" // the unit was never made
	} else if err != nil {
		return done, err
	}
	return done, p.forget(name)
}

const removedStamp = "20060102-150405"

func (p *Provider) removedFolder() string { return filepath.Join(p.Home, "removed") }

// RemovedFolders lists the folders of units of an application that were removed earlier and are still there.
func (p *Provider) RemovedFolders(application string) ([]string, error) {
	entries, err := os.ReadDir(p.removedFolder())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	of := regexp.MustCompile(`^` + regexp.QuoteMeta(application) + `-\d+-\d{8}-\d{6}$`)
	var folders []string
	for _, entry := range entries {
		if of.MatchString(entry.Name()) {
			folders = append(folders, filepath.Join(p.removedFolder(), entry.Name()))
		}
	}
	return folders, nil
}

// removeMember removes the member that has the record's peer URL, if there is one, and gives the number of voting members
// that are left.
func removeMember(ctx context.Context, cluster *member.Client, record unit.Record) (voting int, err error) {
	members, err := cluster.Members(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range members {
		switch {
		case slices.Contains(m.PeerURLs, record.PeerURL):
			err = cluster.Remove(ctx, m.ID)
		case !m.Learner:
			voting++
		}
	}
	return voting, err
}
