package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/archivefile"
)

// resourceName is the one resource that an application has.
const resourceName = "snapshot"

// attachment is NAME=FILE of a command line.
type attachment struct{ name, file string }

// parseAttachments refuses what nobody can restore from, before anything is deployed or sent.
func (a *app) parseAttachments(words []string) ([]attachment, error) {
	var list []attachment
	for _, word := range words {
		name, file, found := strings.Cut(word, "=")
		if !found || name == "" || file == "" {
			return nil, usagef("resource %q must be of the form NAME=FILE", word)
		}
		if name != resourceName {
			return nil, fmt.Errorf("unknown resource %q: the only one is %q", name, resourceName)
		}
		switch err := sniff(file); {
		case errors.Is(err, archivefile.ErrNotArchive):
			return nil, hinted{
				fmt.Errorf("attach resource %q: %q is %w", name, file, err), a.Program + " verify FILE checks an archive as a whole",
			}
		case err != nil:
			return nil, fmt.Errorf("attach resource %q: %w", name, err)
		}
		list = append(list, attachment{name: name, file: file})
	}
	return list, nil
}

// sniff looks at the beginning of a file.
func sniff(name string) (err error) {
	file, _, err := openRegular(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return archivefile.Sniff(file)
}

func (a *app) attachResource() *cobra.Command {
	return &cobra.Command{
		Use:     "attach-resource APPLICATION snapshot=FILE",
		Aliases: []string{"attach"},
		Short:   "Attach a snapshot archive to the units of an application, for restore",
		Long: "Attach a snapshot archive to the units of an application. restore takes the one that was attached last. A file that is\n" +
			"neither an archive nor an etcd backend is not sent; what is inside of one, verify checks, and restore.",
		Example: "  " + a.Program + " attach-resource new-etcd snapshot=./etcd-snapshot-2018-09-26-18.04.02.tar.gz",
		Args:    exactArgs(2, "APPLICATION and NAME=FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			files, err := a.parseAttachments(args[1:])
			if err != nil {
				return err
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			return a.attach(c.Context(), m, args[0], files[0])
		},
	}
}

// attach sends a file to every unit of an application.
func (a *app) attach(ctx context.Context, m *model, application string, what attachment) error {
	names, err := m.units(application)
	if err != nil {
		return err
	}
	for _, name := range names {
		client, err := m.client(name)
		if err != nil {
			return err
		}
		if err := func() error {
			file, size, err := openRegular(what.file)
			if err != nil {
				return err
			}
			defer file.Close()
			bar := a.bytesProgress(fmt.Sprintf("%s to %s", filepath.Base(what.file), name), size)
			defer bar.Close()
			attached, err := client.PutResource(ctx, what.name, io.TeeReader(file, bar), size)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Stderr, "%s: resource %s revision %d, sha256 %s\n", name, what.name, attached.Revision, attached.SHA256)
			return nil
		}(); err != nil {
			return fmt.Errorf("attach resource %q to unit %q: %w", what.name, name, err)
		}
	}
	return nil
}

func (a *app) resources() *cobra.Command {
	return &cobra.Command{
		Use:   "resources APPLICATION",
		Short: "List the files that are attached to an application",
		Args:  exactArgs(1, "one APPLICATION"),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			states, err := m.unitStates(c.Context(), args[0])
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "Unit\tResource\tRevision\tSize\tSHA256")
			for _, state := range states {
				if state.err != nil {
					return state.err
				}
				if r, attached := state.value.Resources[resourceName]; r.Error != "" {
					fmt.Fprintf(a.Stderr, "%s: %s\n", state.name, r.Error)
					fmt.Fprintf(table, "%s\t%s\t?\t?\t?\n", state.name, resourceName)
				} else if attached {
					fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\n", state.name, r.Name, r.Revision, r.Size, r.SHA256)
				} else {
					fmt.Fprintf(table, "%s\t%s\t-\t-\t-\n", state.name, resourceName)
				}
			}
			return table.Flush()
		},
	}
}
