package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/juju"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// place is one end of a copy: a path on this machine, or on a unit.
type place struct {
	reference juju.UnitRef
	onUnit    bool
	path      string
}

// parsePlace reads "etcd/0:PATH", "ubuntu@etcd/0:PATH", "etcd/leader:PATH" or a local path. A local path with a colon in
// it is written with a slash first, as scp has it.
func parsePlace(word string) place {
	host, file, found := strings.Cut(word, ":")
	if !found {
		return place{path: word}
	}
	if _, after, at := strings.Cut(host, "@"); at {
		host = after // the agent has one user for files; a login name says nothing more
	}
	reference, err := juju.ParseUnitRef(host)
	if err != nil {
		return place{path: word}
	}
	return place{reference: reference, onUnit: true, path: file}
}

func (a *app) scp() *cobra.Command {
	var overwrite bool
	command := &cobra.Command{
		Use:   "scp SOURCE DESTINATION",
		Short: "Copy a file from a unit or to one",
		Long: "Copy a file from a unit or to one, through the agent of the unit. One of the two is UNIT:PATH.\n" +
			"The copy appears under its name only when it is complete, and replaces an existing file only with --overwrite.",
		Example: "  " + a.Program + " scp etcd/0:/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz .",
		Args: func(c *cobra.Command, args []string) error {
			err := exactArgs(2, "SOURCE and DESTINATION")(c, args)
			if len(args) == 1 && parsePlace(args[0]).onUnit {
				return hinted{err, fmt.Sprintf("%s scp %s . copies it to this folder; the command under \"copy\" goes on in the next line, with the dot", a.Program, args[0])}
			}
			return err
		},
		RunE: func(c *cobra.Command, args []string) error {
			from, to := parsePlace(args[0]), parsePlace(args[1])
			if from.onUnit == to.onUnit {
				return usagef("one of %q and %q must be UNIT:PATH, and the other a path on this machine", args[0], args[1])
			}
			if from.onUnit && (from.path == "" || from.path == ".") {
				return hinted{usagef("%q names no file of the unit", args[0]), "the path goes after the colon; that of a snapshot is in its result"}
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			if from.onUnit {
				return a.fetch(c.Context(), m, from, to.path, overwrite)
			}
			return a.send(c.Context(), m, from.path, to, overwrite)
		},
	}
	command.Flags().BoolVar(&overwrite, "overwrite", false, "replace an existing file")
	return command
}

func (m *model) resolveOne(ctx context.Context, reference juju.UnitRef) (unit.Name, error) {
	names, err := m.resolve(ctx, []juju.UnitRef{reference})
	if err != nil {
		return unit.Name{}, err
	}
	return names[0], nil
}

// fetch copies a file of a unit to this machine.
func (a *app) fetch(ctx context.Context, m *model, from place, to string, overwrite bool) error {
	name, err := m.resolveOne(ctx, from.reference)
	if err != nil {
		return err
	}
	client, err := m.client(name)
	if err != nil {
		return err
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, path.Base(from.path))
	}
	if _, err := os.Lstat(to); err == nil && !overwrite {
		return existing(to)
	}
	content, size, err := client.ReadFile(ctx, from.path)
	if err != nil {
		return fmt.Errorf("copy %s:%s: %w", name, from.path, err)
	}
	defer content.Close()
	bar := a.bytesProgress(path.Base(from.path), size)
	defer bar.Close()
	err = publish(to, overwrite, func(out io.Writer) error {
		_, err := io.Copy(io.MultiWriter(out, bar), content)
		return err
	})
	if err != nil {
		return fmt.Errorf("copy %s:%s: %w", name, from.path, err)
	}
	return nil
}

func existing(file string) error {
	return hinted{fmt.Errorf("copy to %q: it exists", file), "--overwrite replaces it"}
}

// publish lets write fill a new file with a temporary name beside the target, and gives it its name once it is on the disk.
func publish(to string, overwrite bool, write func(io.Writer) error) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.part") // its mode is 0600
	if failed, is := errors.AsType[*os.PathError](err); is {
		return fmt.Errorf("write to folder %q: %w", filepath.Dir(to), failed.Err) // nobody knows the temporary name
	} else if err != nil {
		return err
	}
	defer func() {
		if gone := os.Remove(temporary.Name()); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	if err = errors.Join(write(temporary), temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if overwrite {
		return durable.Rename(temporary.Name(), to)
	}
	if err := os.Link(temporary.Name(), to); errors.Is(err, os.ErrExist) {
		return existing(to)
	} else if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// send copies a file of this machine to a unit.
func (a *app) send(ctx context.Context, m *model, from string, to place, overwrite bool) error {
	name, err := m.resolveOne(ctx, to.reference)
	if err != nil {
		return err
	}
	client, err := m.client(name)
	if err != nil {
		return err
	}
	file, size, err := openRegular(from)
	if err != nil {
		return err
	}
	defer file.Close()
	target := to.path
	if target == "" || strings.HasSuffix(target, "/") || target == "." {
		target = path.Join(target, filepath.Base(from))
	}
	bar := a.bytesProgress(filepath.Base(from), size)
	defer bar.Close()
	err = client.WriteFile(ctx, target, io.TeeReader(file, bar), size, overwrite)
	if err == nil {
		return nil
	}
	refused, is := errors.AsType[*api.StatusError](err)
	if err = fmt.Errorf("copy to %s:%s: %w", name, target, err); is && refused.Code == http.StatusConflict {
		return hinted{err, "--overwrite replaces it"}
	}
	return err
}

// openRegular opens a file that is not a folder or a device, and gives its size in bytes.
func openRegular(name string) (*os.File, int64, error) {
	// A named pipe would otherwise keep the open waiting for a writer.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %q: not a regular file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}
