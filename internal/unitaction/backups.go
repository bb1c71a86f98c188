package unitaction

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// Vault is where the backups of a unit's cluster go.
type Vault struct {
	Repository *repository.Repository
	// Writer is the signing key of this host.
	Writer *repository.Writer
	// Cluster is what the cluster is called in the repository.
	Cluster string
	// CASHA256 is the fingerprint of the authority that the members' certificates are checked with; "" without TLS.
	CASHA256 string
}

// ErrNoVault means that the configuration of the machine names no repository.
var ErrNoVault error = charmWords("No credentials for object storage available.")

// charmWords are those of the etcd charm, as they are.
type charmWords string

func (w charmWords) Error() string { return string(w) }

type createBackup struct{ *Unit }

func (a *createBackup) Spec() action.Spec {
	return action.Spec{
		Name:        "create-backup",
		Description: "Back up the cluster into the repository of this machine's configuration. Persistent volumes are not in it.",
		Params: []action.Param{
			{Name: "max-rate", Type: action.String, Default: capture.AutomaticRate, Description: "Pace as in the action snapshot."},
			{Name: "new-timeline", Type: action.Boolean, Default: false, Description: "The cluster was restored or replaced since its last backup, and that is known."},
			{Name: "retain-for", Type: action.String, Default: "", Description: "Lock the backup for so long, such as 720h, in stores with object lock."},
		},
	}
}

func (a *createBackup) Run(ctx context.Context, call *action.Call) error {
	pace, err := capture.ParseRate(call.Params.String("max-rate"))
	if err != nil {
		return fmt.Errorf("max-rate %w", err)
	}
	until, err := retainUntil(call.Params.String("retain-for"))
	if err != nil {
		return err
	}
	vault, err := a.vault(ctx)
	if err != nil {
		return err
	}
	clients, err := a.dialAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = closeAll(clients) }() // only read from
	var told *transferProgress
	manifest, err := backup.Run(ctx, vault.Repository, vault.Writer, clients, backup.Options{
		Cluster: vault.Cluster, Rate: pace, NewTimeline: call.Params.Bool("new-timeline"), CASHA256: vault.CASHA256, RetainUntil: until,
		Observe: func(e backup.Event) {
			switch {
			case e.Skipped != nil:
				call.Logf("not read: %s: %s", e.Skipped.Client.Endpoint(), e.Skipped.Why)
			case e.PassedOver != nil:
				call.Logf("an earlier snapshot cannot be believed: %v", e.PassedOver)
			case e.Gone > 0:
				call.Logf("this host has signed %d manifests in this repository, and it holds none any more", e.Gone)
			case e.Chosen != nil:
				call.Logf("reading %s, %s", e.Chosen.Client.Endpoint(), e.Chosen.Role)
				told = nil
			default:
				if told == nil {
					told = newProgress(call, e.Of)
				}
				told.add(int(e.Sent - told.sofar))
			}
		},
	})
	if errors.Is(err, repository.ErrNotEnrolled) {
		return fmt.Errorf("%w; on the machine that has the root key: holdfast key enroll --repo URL --root-key FILE %s", err, vault.Writer.Public())
	}
	if errors.Is(err, backup.ErrOtherCluster) || errors.Is(err, backup.ErrWentBack) {
		return fmt.Errorf("%w; if the cluster was restored: create-backup new-timeline=true", err)
	}
	if err != nil {
		return err
	}
	call.Set("backup-id", manifest.ID.Short())
	call.Set("revision", manifest.Content.Revision.String())
	call.Set("member", manifest.Source.MemberName)
	return nil
}

// retainUntil reads how long a lock lasts; "" is none.
func retainUntil(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return time.Time{}, fmt.Errorf("retain-for must be a time such as 720h, given %q", text)
	}
	return time.Now().Add(d), nil
}

// vault opens where the backups go.
func (u *Unit) vault(ctx context.Context) (Vault, error) {
	if u.Vault == nil {
		return Vault{}, ErrNoVault
	}
	return u.Vault(ctx)
}

// dialAll connects to all members that the unit's own one knows, its own one first. The caller closes them.
func (u *Unit) dialAll(ctx context.Context) ([]*member.Client, error) {
	own, err := u.dial()
	if err != nil {
		return nil, err
	}
	clients := []*member.Client{own}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	members, err := own.KnownMembers(ctx)
	if err != nil {
		return clients, nil // whoever reads from it will say what is wrong with it
	}
	for _, m := range members {
		if len(m.ClientURLs) == 0 || m.Name == u.Record.Member || slices.Contains(u.Record.ClientURLs, m.ClientURLs[0]) {
			continue
		}
		client, err := member.Dial(m.ClientURLs[0], u.TLS)
		if err != nil {
			return nil, errors.Join(err, closeAll(clients))
		}
		clients = append(clients, client)
	}
	return clients, nil
}

func closeAll(clients []*member.Client) error {
	var failed []error
	for _, client := range clients {
		failed = append(failed, client.Close())
	}
	return errors.Join(failed...)
}

type listBackups struct{ *Unit }

func (a *listBackups) Spec() action.Spec {
	return action.Spec{Name: "list-backups", Description: "List the backups of this cluster in the repository, newest first."}
}

// idColumn is as wide as an id is long, and one more.
const idColumn = 21

func (a *listBackups) Run(ctx context.Context, call *action.Call) error {
	vault, err := a.vault(ctx)
	if err != nil {
		return err
	}
	reads, _, err := vault.Repository.Snapshots(ctx, vault.Cluster)
	if err != nil {
		return err
	}
	verifications, _, err := vault.Repository.Verifications(ctx, vault.Cluster, func(repository.ID) bool { return true })
	if err != nil {
		return err
	}
	lines := []string{fmt.Sprintf("%-*s | backup-status", idColumn, "backup-id")}
	lines = append(lines, strings.Repeat("-", len(lines[0])))
	seconds := map[string]int{}
	for _, read := range reads {
		seconds[read.Point.ID.Short()]++
	}
	for _, read := range slices.Backward(reads) {
		id := read.Point.ID.Short()
		if seconds[id] > 1 {
			id = read.Point.ID.Long() // wider than the column, and not to be mistaken for the other one
		}
		lines = append(lines, fmt.Sprintf("%-*s | %s", idColumn, id, backupStatus(read, verifications)))
	}
	call.Set("backups", strings.Join(lines, "\n"))
	return nil
}

// backupStatus is the word of the etcd charm, and what is known beyond it.
func backupStatus(read repository.Read, verifications []repository.VerificationRead) string {
	if read.Err != nil {
		return "failed: " + read.Err.Error()
	}
	switch proof := repository.ProofOf(read, verifications); proof.Standing {
	case repository.StandingBad:
		return "failed: found damaged " + proof.At.Format(time.RFC3339)
	case repository.StandingVerified, repository.StandingProven:
		return fmt.Sprintf("finished, %s %s", proof.Standing, proof.At.Format(time.RFC3339))
	}
	return "finished"
}
