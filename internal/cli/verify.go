package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/datadir"
	"github.com/holdfast-project/holdfast/internal/snapshot"
)

// finding is what verify says of a file. Its JSON form is a contract: docs/contracts/verify.md.
type finding struct {
	File        string `json:"file"`
	Kind        string `json:"kind"`
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256"`
	SHA256Check string `json:"sha256-check"`
	Trailer     bool   `json:"trailer"`
	EtcdVersion string `json:"etcd-version,omitempty"`
	EtcdFrom    string `json:"etcd-version-from,omitempty"`
	Revision    int64  `json:"revision,omitempty"`
	Compacted   int64  `json:"compact-revision,omitempty"`
	Records     int64  `json:"records"`
	Missing     int64  `json:"missing-revision,omitempty"`
	Keys        int64  `json:"keys"`
	Leases      int64  `json:"leases"`
	Kubernetes  bool   `json:"kubernetes"`
	AuthEnabled bool   `json:"auth-enabled"`
	Members     int    `json:"members"`
	Files       int    `json:"files,omitempty"`
}

func (a *app) verify() *cobra.Command {
	var output, want string
	var deep verifyFlags
	var f repoFlags
	var t targetFlags
	command := &cobra.Command{
		Use:   "verify FILE... | verify [SNAPSHOT...] --repo URL | verify --level drill --at TIME",
		Short: "Check snapshot archives and say what is inside",
		Long: "Check snapshot archives, or files of etcdctl snapshot save: the sha256 of FILE.sha256 or --sha256, the archive itself,\n" +
			"etcd's own checksum, and every page of the database. It reads the files twice and writes nothing. The version of etcd is\n" +
			"that of FILE.json where there is one, which must be about this archive, or what the data tells.\n\n" +
			"With --repo or --level, or with ids of snapshots or no word where HOLDFAST_REPO or the configuration names a repository, it\n" +
			"checks snapshots of a repository: the named ones, or all, and then the archive too. At the level listing: signatures, numbering, and that the data is there. At the\n" +
			"level checksum also the data: with --identity down to every page of the database, without it the sha256 of what is stored.\n" +
			"At the level replay etcd's own code opens the database, and its hash is compared with the one that the live cluster had.\n" +
			"At the level drill it is restored into an etcd that starts on this machine, where only this user reaches it, is read back,\n" +
			"compared, and removed. Results are signed and kept in the repository, for list. What is wrong is named, and the exit code\n" +
			"is 3.\n\n" +
			"With --at or --revision a drill proves a moment of an archived cluster: it is restored exactly; its history is restored up to\n" +
			"where the cluster next gave a hash, into an etcd that starts; both must have the same keys, and that etcd the same hash.",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usagef("--output must be text or json, given %q", output)
			}
			if want != "" && len(args) > 1 {
				return usagef("--sha256 goes with one file, given %d", len(args))
			}
			if err := f.configure(a); err != nil {
				return err
			}
			if t.moment() {
				f.output = output
				return a.verifyMoment(c.Context(), &f, &t, deep, args)
			}
			if c.Flags().Changed("repo") || c.Flags().Changed("level") || f.url != "" && nameSnapshots(args) {
				f.output = output
				return a.verifyRepository(c.Context(), &f, deep, args)
			}
			if len(args) == 0 {
				return usagef("want FILE..., or --repo URL")
			}
			var failed []error
			for _, file := range args {
				found, err := a.verifyFile(c.Context(), file, want)
				if err != nil {
					failed = append(failed, fmt.Errorf("verify %q: %w", file, err))
					continue
				}
				if err := found.write(a.Stdout, output); err != nil {
					return err
				}
			}
			return errors.Join(failed...)
		},
	}
	command.Flags().StringVar(&output, "output", "text", "form of the output: text or json")
	f.registerPlace(a, command.Flags())
	f.registerCluster(command.Flags())
	f.registerIdentity(a, command.Flags())
	deep.register(command.Flags())
	t.registerDrill(command.Flags())
	command.Flags().StringVar(&want, "sha256", "", "sha256 that the file must have")
	return command
}

// snapshotWord is what a person may call a snapshot of a repository.
var snapshotWord = regexp.MustCompile(`^(latest|\d{4}-?\d\d-?\d\dT\d\d:?\d\d:?\d\dZ(-[0-9a-f]{8})?)$`)

// nameSnapshots tells whether the words, which may be none, are snapshots of a repository, and no files.
func nameSnapshots(words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool {
		_, err := os.Lstat(word)
		return err == nil || !snapshotWord.MatchString(word)
	})
}

func (a *app) verifyFile(ctx context.Context, name, want string) (finding, error) {
	file, size, err := openRegular(name)
	if err != nil {
		return finding{}, err
	}
	defer file.Close()
	found := finding{File: name, Size: size}
	if want, found.SHA256Check, err = expectedSum(name, want); err != nil {
		return found, err
	}
	side, beside, err := archivefile.ReadSideFile(name, func() ([]byte, error) { return os.ReadFile(name + archivefile.SideSuffix) })
	if err != nil {
		return found, err
	}
	bar := a.bytesProgress("verify "+filepath.Base(name), 2*size)
	defer bar.Close()
	sum := sha256.New()
	reader := &interruptible{ctx: ctx, r: io.TeeReader(file, io.MultiWriter(sum, bar))}
	scanner := snapshot.NewScanner(snapshot.Options{})
	kind, scanErr := archivefile.Walk(reader, archivefile.MostContent, func(e archivefile.Entry, content io.Reader) error {
		found.Files++
		if path.Base(e.Name) != "db" { // A part of the log of a v2 store.
			_, err := datadir.CheckLogFile(e.Name, content, e.Size, nil)
			return err
		}
		_, err := io.Copy(scanner, content)
		return err
	})
	if errors.Is(scanErr, errInterrupted) {
		return found, scanErr
	}
	// The rest of the file belongs to its checksum, whatever the archive says; a wrong sum explains the most.
	if _, err := io.Copy(io.Discard, reader); err != nil {
		return found, err
	}
	found.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if want != "" && found.SHA256 != want {
		return found, fmt.Errorf("sha256 mismatch: expected %s, actual %s", want, found.SHA256)
	}
	if scanErr != nil {
		return found, scanErr
	}
	found.Kind = string(kind)
	info, err := scanner.Finish()
	if err != nil {
		return found, err
	}
	found.writtenBy(info)
	if beside {
		if err := found.takeSide(side); err != nil {
			return found, err
		}
	}
	if kind == archivefile.V2 {
		return found, nil // Its keys are in the log, which only its own etcd can read.
	}
	found.describe(info)
	return found, found.count(ctx, file, scanner.Index(), bar)
}

// expectedSum gives the sha256 that a file must have, and where that comes from: what the caller said, or a side file.
func expectedSum(name, given string) (want, source string, err error) {
	if given != "" {
		return strings.ToLower(given), "as given", nil
	}
	data, err := os.ReadFile(name + archivefile.SumSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return "", noSum, nil
	}
	if err != nil {
		return "", "", err
	}
	fields := bytes.Fields(data)
	if len(fields) == 0 || len(fields[0]) != hex.EncodedLen(sha256.Size) {
		return "", "", fmt.Errorf("read %q: want the form of sha256sum", name+archivefile.SumSuffix)
	}
	return string(bytes.ToLower(fields[0])), "as in " + filepath.Base(name) + archivefile.SumSuffix, nil
}

const (
	// noSum is said of a file whose sum nobody told.
	noSum = "none to compare with"
	// fromSideFile is said of a version that the file does not tell itself.
	fromSideFile = "side file"
)

// writtenBy takes the version of etcd as the data tells it.
func (f *finding) writtenBy(info snapshot.Info) {
	version, evidence := snapshot.SourceVersion(info)
	f.EtcdVersion, f.EtcdFrom = version, string(evidence)
}

// takeSide takes what the side file tells of an archive that is sound. That the sums differ then means that it tells of
// another one.
func (f *finding) takeSide(side archivefile.SideFile) error {
	name := filepath.Base(f.File) + archivefile.SideSuffix
	if side.SHA256 != f.SHA256 {
		return fmt.Errorf("%q is about another archive: one with sha256 %s, this one has %s", name, side.SHA256, f.SHA256)
	}
	if f.SHA256Check == noSum {
		f.SHA256Check = "as in " + name
	}
	if side.EtcdVersion != "" {
		f.EtcdVersion, f.EtcdFrom = side.EtcdVersion, fromSideFile
	}
	return nil
}

func (f *finding) describe(info snapshot.Info) {
	f.Trailer = info.Trailer
	f.Revision, f.Compacted = int64(info.Revision), int64(info.CompactRevision)
	f.Records, f.Missing = info.Records, int64(info.Missing)
	f.Leases, f.AuthEnabled, f.Members = info.Leases, info.AuthEnabled, len(info.Members)
}

// count reads the file again for what needs the live pages only.
func (f *finding) count(ctx context.Context, file *os.File, index *snapshot.Index, bar io.Writer) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	reader := &interruptible{ctx: ctx, r: io.TeeReader(file, bar)}
	_, err := archivefile.Walk(reader, archivefile.MostContent, func(_ archivefile.Entry, content io.Reader) error {
		contents, err := snapshot.ReadContents(content, index)
		f.Keys, f.Kubernetes = contents.Keys, contents.Kubernetes
		return err
	})
	return err
}

func (f finding) write(w io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(w).Encode(f)
	}
	fmt.Fprintf(w, "%s\n", f.File)
	fmt.Fprintf(w, "  archive    %s, %s\n", kindText(f.Kind), humanize.Bytes(uint64(f.Size)))
	fmt.Fprintf(w, "  sha256     %s (%s)\n", f.SHA256, f.SHA256Check)
	if f.Kind == string(archivefile.V2) {
		fmt.Fprintf(w, "  etcd       %s\n", f.versionText())
		_, err := fmt.Fprintf(w, "  content    the v2 store in %s whose checksums are right; its keys only an etcd with that store can count\n", plural(int(f.Files), "file"))
		return err
	}
	checked := "every page and etcd's own checksum are right"
	if !f.Trailer {
		checked = "every page is right; there is no checksum of etcd in it, as in a file that was copied"
	}
	fmt.Fprintf(w, "  database   %s\n", checked)
	fmt.Fprintf(w, "  etcd       %s\n", f.versionText())
	fmt.Fprintf(w, "  revision   %d, history from %d\n", f.Revision, max(f.Compacted, 1))
	if f.Missing > 0 {
		fmt.Fprintf(w, "  missing    revision %d, perhaps others, has no record: the etcd that wrote this had lost it\n", f.Missing)
	}
	kubernetes := "no Kubernetes objects"
	if f.Kubernetes {
		kubernetes = "Kubernetes objects"
	}
	_, err := fmt.Fprintf(w, "  content    %s, %s, %s\n", plural(int(f.Keys), "key"), plural(int(f.Leases), "lease"), kubernetes)
	return err
}

// versionText says which etcd wrote the data, and how sure that is.
func (f finding) versionText() string {
	switch f.EtcdFrom {
	case fromSideFile:
		return fmt.Sprintf("%s (as in %s)", f.EtcdVersion, filepath.Base(f.File)+archivefile.SideSuffix)
	case string(snapshot.ByStorageVersion):
		return f.EtcdVersion + " by its storage version"
	case string(snapshot.ByNoTerm):
		return f.EtcdVersion + " or older"
	}
	if f.Kind == string(archivefile.V2) {
		return f.EtcdVersion // the last one with a v2 store
	}
	return f.EtcdVersion + ", or a newer one in its first seconds"
}

func kindText(kind string) string {
	switch archivefile.Kind(kind) {
	case archivefile.V2:
		return "tar.gz with the v2 store"
	case archivefile.Bare:
		return "no archive, a plain database file"
	default:
		return "tar.gz with one database"
	}
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (r *interruptible) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, errInterrupted
	}
	return r.r.Read(p)
}
