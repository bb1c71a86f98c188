package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/seal"
)

func (a *app) keyAdd() *cobra.Command {
	return a.changeRecipients("add RECIPIENT...", "Encrypt new backups to more keys, with the root key",
		"Encrypt backups from now on to these age recipients too. What is stored already is not touched: who has only a new key\ncannot read it.",
		func(now, given []string) ([]string, error) {
			for _, text := range given {
				recipient, err := seal.ParseRecipient(text)
				if err != nil {
					return nil, usageError{err}
				}
				if slices.Contains(now, recipient.String()) {
					return nil, fmt.Errorf("%s is a recipient already", recipient)
				}
				now = append(now, recipient.String())
			}
			return now, nil
		})
}

func (a *app) keyRemove() *cobra.Command {
	return a.changeRecipients("remove RECIPIENT...", "Encrypt new backups no more to some keys, with the root key",
		"Encrypt backups from now on no more to these age recipients. What is stored already is not touched: keep the old key as\nlong as list --keys says that a snapshot needs it.",
		func(now, given []string) ([]string, error) {
			for _, text := range given {
				i := slices.Index(now, text)
				if i < 0 {
					return nil, hinted{fmt.Errorf("%q is no recipient now", text), "repo info shows the recipients"}
				}
				now = slices.Delete(now, i, i+1)
			}
			if len(now) == 0 {
				return nil, errors.New("nobody could read the backups any more")
			}
			return now, nil
		})
}

func (a *app) changeRecipients(use, short, long string, change func(now, given []string) ([]string, error)) *cobra.Command {
	var f repoFlags
	var rootKey rootKeyFlag
	command := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			root, err := rootKey.read()
			if err != nil {
				return err
			}
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			err = repo.SetRecipients(c.Context(), root, func(now []string) ([]string, error) { return change(now, args) })
			if err != nil {
				return err
			}
			now, err := repo.Recipients(c.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "new backups are encrypted to %s\n", strings.Join(now, " and "))
			return nil
		},
	}
	f.register(a, command.Flags())
	rootKey.register(command.Flags())
	return command
}
