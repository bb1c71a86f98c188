package unitaction

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/member"
)

// guardOneUnit refuses a restore unless this unit is alone, by every source there is: the operator's inventory, the live
// membership, and the membership that the data dir records. Restoring one member of several would make two clusters that
// both believe to be the only one. A source that cannot be read refuses as well; that a stopped etcd has no live
// membership, or that a new unit has no data dir yet, is no such failure.
func (u *Unit) guardOneUnit(ctx context.Context) error {
	if err := u.guardInventory(); err != nil {
		return err
	}
	dir, err := datadir.At(u.Record.DataDir, u.Record.WALDir)
	if err != nil {
		return err
	}
	recorded, err := dir.Members()
	switch {
	case errors.Is(err, datadir.ErrInUse):
		return u.guardLive(ctx) // etcd runs, and what it says is newer than what is on its disk
	case err != nil:
		return fmt.Errorf("restore refused: read who is a member by the data dir: %w", err)
	}
	var names []string
	for _, m := range recorded {
		names = append(names, m.Name)
	}
	return refuseSeveral("the data dir records", names)
}

// elsewhere is what to do instead.
const elsewhere = "; deploy a new application of one unit, and restore there"

func (u *Unit) guardInventory() error {
	if u.ApplicationUnits == nil {
		return nil
	}
	units, err := u.ApplicationUnits()
	if err != nil {
		return fmt.Errorf("restore refused: read the units of the application: %w", err)
	}
	if len(units) <= 1 {
		return nil
	}
	names := make([]string, len(units))
	for i, name := range units {
		names[i] = name.String()
	}
	return fmt.Errorf("restore refused: application %s has %d units (%s); restore needs exactly one%s",
		u.Name.Application, len(units), strings.Join(names, ", "), elsewhere)
}

func (u *Unit) guardLive(ctx context.Context) error {
	client, err := u.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	bounded, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	members, err := client.Members(bounded)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("restore refused: etcd runs and does not say who its members are: %w", err)
	}
	return refuseSeveral("the cluster has", memberNames(members))
}

// memberNames gives a member that never started its peer URL for a name.
func memberNames(members []member.Member) []string {
	names := make([]string, len(members))
	for i, m := range members {
		if names[i] = m.Name; m.Name == "" {
			names[i] = strings.Join(m.PeerURLs, ",")
		}
	}
	return names
}

func refuseSeveral(source string, names []string) error {
	if len(names) <= 1 {
		return nil
	}
	return fmt.Errorf("restore refused: %s %d members (%s); restore needs exactly one%s", source, len(names), strings.Join(names, ", "), elsewhere)
}
