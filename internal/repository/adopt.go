package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/snapshot"
	"github.com/holdfast-project/holdfast/internal/store"
)

// Adoptable is data without a manifest that is a whole and sound snapshot, with the manifest that it would get.
type Adoptable struct{ manifest Manifest }

// Manifest is what the data will be shown as. Who signed it and its number are not known yet.
func (a Adoptable) Manifest() Manifest { return a.manifest }

// Examine reads data that no manifest names, down to every page, and tells what manifest it deserves. What only the lost
// manifest said is not known: where the snapshot is from, its timeline, and the hash of the live cluster. Errors that are
// about the data are as in Fetch: mostly it is of an upload that was cut off. Nothing proves who made it: anybody who can
// write into the store can encrypt to a public key.
func (r *Repository) Examine(ctx context.Context, cluster string, object Unclaimed, identities []seal.Identity, observe io.Writer) (a Adoptable, err error) {
	fail := func(err error) (Adoptable, error) { return Adoptable{}, fmt.Errorf("object %q: %w", object.Name, err) }
	id, err := parseDataName(object.Name, cluster)
	if err != nil {
		return fail(err)
	}
	stored := Object{Name: object.Name, Encryption: None}
	if strings.HasSuffix(object.Name, ".age") {
		stored.Encryption = Age
		for _, identity := range identities {
			stored.Recipients = append(stored.Recipients, identity.Recipient().KeyID())
		}
	} else {
		identities = nil
	}
	if dataName(cluster, id, stored.Encryption == Age) != object.Name {
		return fail(errors.New("it is not named as a snapshot"))
	}
	body, err := r.store.Open(ctx, object.Name, 0, -1)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	counting := &counted{Reader: observed(body, observe), sum: sha256.New()}
	scanner := snapshot.NewScanner(snapshot.Options{})
	var unknown Manifest
	unknown.Content.Size = -1
	if err := unseal(counting, unknown, identities, io.Discard, scanner); err != nil {
		return fail(err)
	}
	if _, err := io.Copy(io.Discard, counting); err != nil {
		return fail(err)
	}
	info, err := scanner.Finish()
	if err == nil && !info.Trailer {
		err = errors.New("it has no checksum at its end")
	}
	if err != nil {
		return fail(err)
	}
	stored.Size, stored.SHA256 = counting.n, hex.EncodeToString(counting.sum.Sum(nil))
	version, _ := snapshot.SourceVersion(info)
	return Adoptable{Manifest{
		ID: id, Cluster: cluster, Timeline: newTimeline(), Object: stored, Content: ContentOf(info),
		Source: Source{EtcdVersion: version, Adopted: true}, HashKV: HashKV{Missing: "its first manifest was lost"},
		Started: id.Time, Completed: time.Now().UTC().Truncate(time.Millisecond),
	}}, nil
}

// Adopt makes a snapshot of what Examine found sound.
func (r *Repository) Adopt(ctx context.Context, w *Writer, a Adoptable) (Manifest, error) {
	m := a.manifest
	if _, err := r.Enrolled(ctx, w.key.Public().Fingerprint(), RoleBackup); err != nil {
		return m, fmt.Errorf("signing key of this host: %w", err)
	}
	if err := w.publish(ctx, r, &m, store.PutOptions{}); err != nil {
		return m, fmt.Errorf("adopt snapshot %s: %w", m.ID.Long(), err)
	}
	return m, nil
}
