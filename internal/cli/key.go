package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
)

// encodePublic is the text form of a public key that signs.
func encodePublic(key repository.PublicKey) string { return base64.StdEncoding.EncodeToString(key) }

func (a *app) key() *cobra.Command {
	command := &cobra.Command{
		Use:   "key",
		Short: "Make keys to read backups with, and let hosts sign",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, sub := range []*cobra.Command{a.keyGenerate(), a.keyShow(), a.keyEnroll()} {
		sub.Args = usageArgs(sub.Args)
		command.AddCommand(sub)
	}
	return command
}

func (a *app) keyGenerate() *cobra.Command {
	var postQuantum bool
	command := &cobra.Command{
		Use:   "generate FILE",
		Short: "Make a secret age key in a new file, and print its recipient",
		Long: "Make a secret age key in a new file, and print its recipient, which repo init takes. Only who has the file can read what is\n" +
			"encrypted to the recipient: keep copies of it in safe places, and none where the backups are.",
		Args: exactArgs(1, "one FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			kind := seal.X25519
			if postQuantum {
				kind = seal.Hybrid
			}
			text, recipient, err := seal.GenerateIdentity(kind)
			if err != nil {
				return err
			}
			if err := durable.WriteNewFile(args[0], []byte(text), 0o600); err != nil {
				return err
			}
			fmt.Fprintln(a.Stdout, recipient)
			return nil
		},
	}
	command.Flags().BoolVar(&postQuantum, "post-quantum", false, "make a hybrid key, which a quantum computer does not break either")
	return command
}

func (a *app) keyShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the public half of this host's signing key",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			writer, err := a.writer()
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Stdout, encodePublic(writer.Public()))
			return nil
		},
	}
}

func (a *app) keyEnroll() *cobra.Command {
	var f repoFlags
	var rootKey, name string
	command := &cobra.Command{
		Use:   "enroll [PUBLIC-KEY]",
		Short: "Let a host sign in a repository, with the root key",
		Long: "Let a host sign in a repository. PUBLIC-KEY is what key show prints there; without it, it is this host.\n" +
			"The root key is what repo init wrote.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if rootKey == "" {
				return usagef("--root-key FILE is missing")
			}
			text, err := os.ReadFile(rootKey)
			if err != nil {
				return fmt.Errorf("read root key: %w", err)
			}
			root, err := repository.ParseKey(text)
			if err != nil {
				return fmt.Errorf("root key %q: %w", rootKey, err)
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
			if err := repo.Enroll(c.Context(), root, key, name); err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "signer %s is enrolled\n", key.Fingerprint().Short())
			return nil
		},
	}
	f.register(a, command.Flags())
	command.Flags().StringVar(&rootKey, "root-key", "", "file with the root key")
	command.Flags().StringVar(&name, "name", "", "what to call the signer (default: this host's name)")
	return command
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
