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

// parseAttachments refuses what nobody can restore from, before anything is deployed or sent: each file is checked as
// verify does, since an attached one takes the place of the one before.
func (a *app) parseAttachments(ctx context.Context, words []string) ([]attachment, error) {
	var list []attachment
	for _, word := range words {
		name, file, found := strings.Cut(word, "=")
		if !found || name == "" || file == "" {
			return nil, usagef("resource %q must be of the form NAME=FILE", word)
		}
		if name != resourceName {
			return nil, fmt.Errorf("unknown resource %q: the only one is %q", name, resourceName)
		}
		if err := a.checkAttachment(ctx, name, file); err != nil {
			return nil, err
		}
		list = append(list, attachment{name: name, file: file})
	}
	return list, nil
}

func (a *app) checkAttachment(ctx context.Context, name, file string) error {
	opened, _, err := openRegular(file)
	if err != nil {
		return fmt.Errorf("attach resource %q: %w", name, err)
	}
	if err := opened.Close(); err != nil {
		return err
	}
	_, err = a.verifyFile(ctx, file, "")
	switch {
	case err == nil || errors.Is(err, errInterrupted):
		return err
	case errors.Is(err, archivefile.ErrNotArchive) && !errors.Is(err, archivefile.ErrEmpty):
		err = fmt.Errorf("attach resource %q: %q is %w", name, file, err)
	default:
		err = fmt.Errorf("attach resource %q: %q: %w", name, file, err)
	}
	return hinted{err, fmt.Sprintf("nothing was sent; %s verify %s is the same check", a.Program, file)}
}

func (a *app) attachResource() *cobra.Command {
	return &cobra.Command{
		Use:     "attach-resource APPLICATION snapshot=FILE",
		Aliases: []string{"attach"},
		Short:   "Attach a snapshot archive to the units of an application, for restore",
		Long: "Attach a snapshot archive to the units of an application. restore takes the one that was attached last. The file is\n" +
			"checked first as verify does, also against FILE.sha256 and FILE.json where they are. One that is not right is not sent.",
		Example: "  " + a.Program + " attach-resource new-etcd snapshot=./etcd-snapshot-2018-09-26-18.04.02.tar.gz",
		Args:    exactArgs(2, "APPLICATION and NAME=FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			files, err := a.parseAttachments(c.Context(), args[1:])
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
