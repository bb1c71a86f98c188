package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/seal"
)

func (a *app) key() *cobra.Command {
	command := &cobra.Command{
		Use:   "key",
		Short: "Make keys to read backups with, and let hosts sign",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, sub := range []*cobra.Command{a.keyGenerate(), a.keyAdd(), a.keyRemove(), a.keyShow(), a.keyEnroll(), a.keyRevoke()} {
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
			if err := writeKey(args[0], []byte(text)); err != nil {
				return err
			}
			fmt.Fprintln(a.Stdout, recipient)
			return nil
		},
	}
	command.Flags().BoolVar(&postQuantum, "post-quantum", false, "make a hybrid key, which a quantum computer does not break either")
	return command
}
