package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/repository"
)

func (a *app) keyShow() *cobra.Command {
	var fingerprint bool
	command := &cobra.Command{
		Use:   "show",
		Short: "Print the public half of this host's signing key",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			writer, err := a.writer()
			if err != nil {
				return err
			}
			if fingerprint {
				fmt.Fprintln(a.Stdout, writer.Public().Fingerprint())
				return nil
			}
			fmt.Fprintln(a.Stdout, writer.Public())
			return nil
		},
	}
	command.Flags().BoolVar(&fingerprint, "fingerprint", false, "print its fingerprint instead, as key revoke takes it")
	return command
}

// usualRoles are those of a host that backs up and looks after its backups. Who may prune is decided by itself.
var usualRoles = []repository.Role{repository.RoleBackup, repository.RoleVerify}

func joinRoles(roles []repository.Role) string {
	var words []string
	for _, role := range roles {
		words = append(words, string(role))
	}
	return strings.Join(words, ", ")
}

// rootKeyFlag is the root key, for the commands that change who may do what.
type rootKeyFlag struct{ file string }

func (f *rootKeyFlag) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.file, "root-key", "", "file with the root key, which repo init wrote")
}

func (f *rootKeyFlag) read() (repository.Key, error) {
	if f.file == "" {
		return repository.Key{}, usagef("--root-key FILE is missing")
	}
	text, err := os.ReadFile(f.file)
	if err != nil {
		return repository.Key{}, fmt.Errorf("read root key: %w", err)
	}
	root, err := repository.ParseKey(text)
	if err != nil {
		return root, fmt.Errorf("root key %q: %w", f.file, err)
	}
	return root, nil
}

func (a *app) keyEnroll() *cobra.Command {
	var f repoFlags
	var rootKey rootKeyFlag
	var name string
	var roles []string
	command := &cobra.Command{
		Use:   "enroll [PUBLIC-KEY]",
		Short: "Let a host sign in a repository, with the root key",
		Long: "Let a host sign in a repository. PUBLIC-KEY is what key show prints there; without it, it is this host.\n" +
			"A host may sign backups and verifications, or what --role says: backup, verify, prune. Only one with the role prune may\n" +
			"say that a snapshot was removed on purpose, or is pinned: give it to a host that backs nothing up.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			root, err := rootKey.read()
			if err != nil {
				return err
			}
			chosen := usualRoles
			if len(roles) > 0 {
				chosen = nil
			}
			for _, text := range roles {
				role, err := repository.ParseRole(text)
				if err != nil {
					return usageError{err}
				}
				chosen = append(chosen, role)
			}
			key, err := a.publicKey(args)
			if err != nil {
				return err
			}
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			if name, err = signerName(name); err != nil {
				return err
			}
			for _, role := range chosen {
				if err := repo.Enroll(c.Context(), root, key, role, name); err != nil {
					return err
				}
			}
			fmt.Fprintf(a.Stdout, "signer %s is enrolled: %s\n", key.Fingerprint().Short(), joinRoles(chosen))
			return nil
		},
	}
	f.register(a, command.Flags())
	rootKey.register(command.Flags())
	command.Flags().StringVar(&name, "name", "", "what to call the signer (default: this host's name)")
	command.Flags().StringArrayVar(&roles, "role", nil, "what the key may sign: backup, verify or prune; may be repeated (default: backup and verify)")
	return command
}

func (a *app) keyRevoke() *cobra.Command {
	var f repoFlags
	var rootKey rootKeyFlag
	var reject bool
	command := &cobra.Command{
		Use:   "revoke FINGERPRINT",
		Short: "Believe nothing more that a host signs, with the root key",
		Long: "Believe nothing more that a host signs. FINGERPRINT, or enough of its first digits, is what repo info shows.\n" +
			"What it has signed and is in the repository now stays believed: look at it before. With --reject-all none of it is, so\n" +
			"that its snapshots are neither listed as good nor restored.",
		Args: exactArgs(1, "one FINGERPRINT"),
		RunE: func(c *cobra.Command, args []string) error {
			root, err := rootKey.read()
			if err != nil {
				return err
			}
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			key, err := findSigner(c.Context(), repo, args[0])
			if err != nil {
				return err
			}
			accepted, err := repo.Revoke(c.Context(), root, key, reject)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "signer %s is revoked; %s of it stay believed\n", key.Short(), plural(accepted, "signed object"))
			return nil
		},
	}
	f.register(a, command.Flags())
	rootKey.register(command.Flags())
	command.Flags().BoolVar(&reject, "reject-all", false, "believe nothing that it has ever signed")
	return command
}

// findSigner finds a signer by the beginning of its fingerprint.
func findSigner(ctx context.Context, repo *repository.Repository, text string) (repository.Fingerprint, error) {
	signers, _, err := repo.Signers(ctx)
	if err != nil {
		return "", err
	}
	var found []repository.Fingerprint
	for _, s := range signers {
		if f := s.Enrolment.Key.Fingerprint(); strings.HasPrefix(string(f), text) && !slices.Contains(found, f) {
			found = append(found, f)
		}
	}
	switch {
	case len(found) == 0 || len(text) < 8:
		return "", hinted{fmt.Errorf("no signer has a fingerprint that begins with %q and 8 digits at least", text), "repo info shows the signers"}
	case len(found) > 1:
		return "", fmt.Errorf("%d signers have fingerprints that begin with %q", len(found), text)
	}
	return found[0], nil
}

// publicKey is the key that was given, or that of this host.
func (a *app) publicKey(args []string) (repository.PublicKey, error) {
	if len(args) == 0 {
		writer, err := a.writer()
		if err != nil {
			return nil, err
		}
		return writer.Public(), nil
	}
	key, err := base64.StdEncoding.DecodeString(args[0])
	if err != nil || len(key) != 32 {
		return nil, usageError{errors.New("PUBLIC-KEY must be what key show prints: 44 characters of base64")}
	}
	return key, nil
}
