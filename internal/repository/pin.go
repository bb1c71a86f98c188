package repository

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Pin says that a snapshot is kept whatever the rules of retention say, or no more. The one with the highest number counts.
type Pin struct {
	Format     string      `json:"format"`
	Repository string      `json:"repository"`
	Cluster    string      `json:"cluster"`
	Snapshot   ID          `json:"snapshot"`
	Number     int         `json:"number"`
	Pinned     bool        `json:"pinned"`
	Reason     string      `json:"reason"`
	Made       time.Time   `json:"made"`
	Signer     Fingerprint `json:"signer"`
}

// mostReason bounds the reason of a pin, in bytes.
const mostReason = 500

func pinName(cluster string, snapshot ID, number int) string {
	return fmt.Sprintf("%s%s%s%s/%08d.json", clusterFolder, cluster, pinPart, snapshot, number)
}

// PinRead is one pin that was fetched, or why it could not be believed.
type PinRead struct {
	Name   string
	Pin    Pin
	SHA256 string
	Err    error
}

// PinsOf fetches the pin that counts of each snapshot of a cluster that ever had one. One that cannot be believed is given
// with its reason, and the caller had better keep the snapshot.
func (r *Repository) PinsOf(ctx context.Context, cluster string) (map[ID]PinRead, error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, err
	}
	pins := map[ID]PinRead{}
	for object, err := range r.store.List(ctx, clusterFolder+cluster+pinPart, "") {
		if err != nil {
			return nil, fmt.Errorf("list pins of %q: %w", cluster, err)
		}
		snapshot, number, err := parsePin(object.Name, cluster)
		if err != nil {
			continue // it says nothing of any snapshot
		}
		read := r.pin(ctx, cluster, snapshot, number)
		if earlier, found := pins[snapshot]; found && read.Err != nil && earlier.Err == nil {
			continue // rubbish behind a pin does not lift it
		}
		pins[snapshot] = read
	}
	return pins, nil
}

func parsePin(name, cluster string) (ID, int, error) {
	folder, file := path.Split(strings.TrimPrefix(name, clusterFolder+cluster+pinPart))
	snapshot, err := parseID(strings.TrimSuffix(folder, "/"))
	number, numberErr := strconv.Atoi(strings.TrimSuffix(file, ".json"))
	if err != nil || numberErr != nil || pinName(cluster, snapshot, number) != name {
		return ID{}, 0, fmt.Errorf("object %q is not named as a pin", name)
	}
	return snapshot, number, nil
}

func (r *Repository) pin(ctx context.Context, cluster string, snapshot ID, number int) PinRead {
	read := PinRead{Name: pinName(cluster, snapshot, number)}
	signed, err := r.readSigned(ctx, read.Name)
	if err == nil {
		read.SHA256 = sumOf(signed)
		var by Fingerprint
		by, err = r.openSigned(ctx, signed, RolePrune, pinFormat, &read.Pin)
		p := read.Pin
		if err == nil && (p.Signer != by || p.Repository != r.document.Repository || p.Cluster != cluster || p.Snapshot != snapshot || p.Number != number) {
			err = fmt.Errorf("%w: it does not belong there", ErrForged)
		}
	}
	if err != nil {
		read.Err = fmt.Errorf("pin %q: %w", read.Name, err)
	}
	return read
}

// SetPin pins a snapshot, or lifts its pin. The key needs the role of pruning, which decides what is kept.
func (r *Repository) SetPin(ctx context.Context, w *Writer, p Point, pinned bool, reason string) error {
	fail := func(err error) error { return fmt.Errorf("pin snapshot %s: %w", p.ID.Long(), err) }
	own := w.key.Public().Fingerprint()
	if _, err := r.Enrolled(ctx, own, RolePrune); err != nil {
		return fail(fmt.Errorf("signing key of this host: %w", err))
	}
	if len(reason) > mostReason {
		return fail(fmt.Errorf("the reason has %d bytes, want at most %d", len(reason), mostReason))
	}
	for number := 1; ; number++ {
		earlier := r.pin(ctx, p.Cluster, p.ID, number)
		switch {
		case earlier.Err == nil, errors.Is(earlier.Err, ErrForged):
			continue // the number is taken
		case !errors.Is(earlier.Err, store.ErrNotFound):
			return fail(earlier.Err)
		}
		signed, err := sign(Pin{
			Format: pinFormat, Repository: r.document.Repository, Cluster: p.Cluster, Snapshot: p.ID, Number: number,
			Pinned: pinned, Reason: reason, Made: time.Now().UTC().Truncate(time.Second), Signer: own,
		}, w.key)
		if err != nil {
			return fail(err)
		}
		_, err = store.PutBytes(ctx, r.store, pinName(p.Cluster, p.ID, number), signed, store.PutOptions{})
		if errors.Is(err, store.ErrExists) {
			continue // somebody else was faster; the last word counts
		}
		if err != nil {
			return fail(err)
		}
		return nil
	}
}
