package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/foreign"
	"github.com/holdfast-project/holdfast/internal/repository"
)

func (a *app) importFiles() *cobra.Command {
	var f repoFlags
	var timeline string
	var retain time.Duration
	command := &cobra.Command{
		Use:   "import FILE...",
		Short: "Put backup files of other tools into a repository",
		Long: "Put backup files into a repository: of etcdctl snapshot save, copies of member/snap/db, archives of the backups page, and\n" +
			"those of k3s, RKE2, etcd-manager, Gardener and the etcd charms. What a file is, its bytes tell. Every page is checked before\n" +
			"it counts as stored. A file tells neither its cluster nor its history, so each gets a timeline of its own; with --timeline,\n" +
			"which list shows, you say that they belong to one.",
		Example: "  " + a.Program + " import --cluster prod /var/lib/rancher/k3s/server/db/snapshots/*",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			until, err := retainUntil(retain)
			if err != nil {
				return err
			}
			if timeline != "" {
				if err := repository.CheckTimeline(timeline); err != nil {
					return usageError{err}
				}
			}
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			if f.cluster, err = f.oneCluster(c.Context(), repo); err != nil {
				return hinted{err, "--cluster NAME says what the cluster is called in the repository"}
			}
			writer, err := a.writer()
			if err != nil {
				return err
			}
			var failed []error
			for _, file := range files {
				m, err := a.importFile(c.Context(), repo, writer, &f, file, backup.ImportOptions{
					Cluster: f.cluster, Timeline: repository.Timeline(timeline), RetainUntil: until,
				})
				if c.Context().Err() != nil {
					return context.Cause(c.Context())
				}
				if errors.Is(err, repository.ErrNotEnrolled) {
					return a.enrollHint(err, writer, "")
				}
				if errors.Is(err, backup.ErrImported) {
					fmt.Fprintln(a.Stderr, err)
					continue
				}
				if err != nil {
					failed = append(failed, err)
					continue
				}
				if err := a.writeImported(file, m, f.output); err != nil {
					return err
				}
			}
			return errors.Join(failed...)
		},
	}
	flags := command.Flags()
	f.register(a, flags)
	f.registerCluster(flags)
	flags.StringVar(&timeline, "timeline", "", "the timeline in the repository that the files belong to, when you know it")
	registerRetain(flags, &retain)
	return command
}

func (a *app) importFile(ctx context.Context, repo *repository.Repository, writer *repository.Writer, f *repoFlags, name string, o backup.ImportOptions) (m repository.Manifest, err error) {
	file, err := foreign.Open(name)
	if err != nil {
		return m, fmt.Errorf("import %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	o.File = repository.File{Name: filepath.Base(name), Form: string(file.Kind), Tool: file.Tool, Taken: file.Taken, TakenFrom: file.TakenFrom}
	o.Node, o.EtcdVersion, o.Size = file.Node, file.EtcdVersion, file.Size
	show := a.transferProgress("import "+o.File.Name, f)
	defer show.close()
	o.Observe = func(sent int64) { show.moved(sent, file.Size) }
	return backup.Import(ctx, repo, writer, file, o)
}

func (a *app) writeImported(name string, m repository.Manifest, form string) error {
	if form == "json" {
		return json.NewEncoder(a.Stdout).Encode(m)
	}
	fmt.Fprintf(a.Stdout, "%s is stored as snapshot %s of cluster %s\n", name, m.ID.Short(), m.Cluster)
	fmt.Fprintf(a.Stdout, "  revision   %s, history from %s\n", m.Content.Revision, m.Point().First)
	fmt.Fprintf(a.Stdout, "  size       %s, stored as %s\n", humanize.Bytes(uint64(m.Content.Size)), humanize.Bytes(uint64(m.Object.Size)))
	taken := "when it was taken is not known"
	if from := m.Source.File; !from.Taken.IsZero() {
		taken = fmt.Sprintf("taken %s, by its %s", from.Taken.Format(rfc3339), from.TakenFrom)
	}
	fmt.Fprintf(a.Stdout, "  file       %s, etcd %s, %s\n", m.Source.File.Form, m.Source.EtcdVersion, taken)
	if !m.Source.File.Checksum {
		fmt.Fprintln(a.Stdout, "  note       it had no checksum of etcd, as copied files have none; every page is right, and what is stored has one")
	}
	return nil
}
