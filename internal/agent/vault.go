package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/location"
	"github.com/holdfast-project/holdfast/internal/unitaction"
)

// vault opens the repository that the configuration of the machine names. It is read each time, so that a change counts at
// once.
func (a *Agent) vault(ctx context.Context) (unitaction.Vault, error) {
	machine, file, err := config.LoadMachine("", a.config.Home)
	if err != nil {
		return unitaction.Vault{}, err
	}
	c := machine.Repository
	if c.URL == "" {
		return unitaction.Vault{}, fmt.Errorf("%w Name the repository as repository.url in %s", unitaction.ErrNoVault, filepath.Join(a.config.Home, config.MachineFile))
	}
	vault, err := a.openVault(ctx, c)
	if err != nil {
		return unitaction.Vault{}, fmt.Errorf("repository of %s: %w", file, err)
	}
	return vault, nil
}

func (a *Agent) openVault(ctx context.Context, c config.Repository) (v unitaction.Vault, err error) {
	v.Cluster = c.Cluster
	if v.Cluster == "" {
		v.Cluster = a.config.Unit.Application
	}
	at, err := location.Parse(c.URL)
	if err != nil {
		return v, err
	}
	opened, err := at.Open(ctx, location.Options{Getenv: os.Getenv})
	if err != nil {
		return v, err
	}
	trust := repository.TrustFolder{Dir: filepath.Join(a.config.Home, config.TrustFolder)}
	repo, first, err := trust.Open(ctx, store.Retry(opened, store.RetryOptions{}), at.Place(), repository.Fingerprint(c.Trust))
	if err != nil {
		return v, err
	}
	if first {
		a.log.Warn("trusting the root key of this repository from now on: it is the first that was seen there", "repository", at.String(), "root", string(repo.Root()))
	}
	v.Repository = repo
	if v.Writer, err = repository.OpenWriter(filepath.Join(a.config.Home, config.SignerFolder)); err != nil {
		return v, err
	}
	if ca := a.config.Record.TLS.CA; ca != "" {
		v.CASHA256, err = pki.AuthoritySum(ca)
	}
	return v, err
}
