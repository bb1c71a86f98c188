package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/seal"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/location"
)

// repoFlags are the flags of every command that works on a repository.
type repoFlags struct {
	url      string
	trust    string
	cluster  string
	identity []string
	output   string
	quiet    bool

	config string // the file of the configuration
	usual  string // the cluster of the configuration, for commands that want one
}

// register adds the flags that most such commands have.
func (f *repoFlags) register(a *app, flags *pflag.FlagSet) {
	f.registerPlace(a, flags)
	flags.StringVar(&f.output, "output", "text", "form of the output: text or json")
}

// registerPlace adds those that all have.
func (f *repoFlags) registerPlace(a *app, flags *pflag.FlagSet) {
	f.output = "text"
	flags.StringVar(&f.url, "repo", a.Getenv("HOLDFAST_REPO"), "repository: file:///PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, azblob://CONTAINER/PREFIX?account=NAME or sftp://USER@HOST/PATH (default $HOLDFAST_REPO)")
	flags.StringVar(&f.trust, "trust", a.Getenv("HOLDFAST_TRUST"), "fingerprint of the repository's root key (default $HOLDFAST_TRUST, else what was there first)")
	flags.BoolVar(&f.quiet, "quiet", false, "show no progress")
	flags.StringVar(&f.config, "config", a.Getenv("HOLDFAST_CONFIG"), "configuration of this machine (default $HOLDFAST_CONFIG, else config.yaml in $HOLDFAST_HOME, else /etc/holdfast/config.yaml)")
}

func (f *repoFlags) registerCluster(flags *pflag.FlagSet) {
	flags.StringVar(&f.cluster, "cluster", "", "name of the cluster in the repository; may be left out when there is one")
}

func (f *repoFlags) registerIdentity(a *app, flags *pflag.FlagSet) {
	var given []string
	if file := a.Getenv("HOLDFAST_IDENTITY"); file != "" {
		given = []string{file}
	}
	flags.StringArrayVar(&f.identity, "identity", given, "file with the secret age key to read with; may be repeated (default $HOLDFAST_IDENTITY)")
}

func (f *repoFlags) check() error {
	if f.url == "" {
		return hinted{usagef("no repository is given"), "--repo file:///srv/backups, or set HOLDFAST_REPO, or write it into the configuration"}
	}
	if f.output != "text" && f.output != "json" {
		return usagef("--output must be text or json, given %q", f.output)
	}
	if f.trust != "" {
		if _, err := repository.ParseFingerprint(f.trust); err != nil {
			return usageError{err}
		}
		if f.cluster != "" {
			if err := repository.CheckCluster(f.cluster); err != nil {
				return usageError{err}
			}
		}
	}
	if f.cluster != "" {
		if err := repository.CheckCluster(f.cluster); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// configure takes from the configuration of this machine what neither a flag nor a variable says.
func (f *repoFlags) configure(a *app) error {
	home, err := a.home()
	if err != nil {
		return err
	}
	configured, _, err := config.LoadMachine(f.config, home)
	if err != nil {
		return err
	}
	c := configured.Repository
	if f.url == "" {
		f.url = c.URL
	}
	if f.url != c.URL {
		return nil // the rest is about another repository
	}
	if f.trust == "" {
		f.trust = c.Trust
	}
	if len(f.identity) == 0 {
		f.identity = c.Identity
	}
	f.usual = c.Cluster
	return nil
}

// openStore opens the place of a repository.
func (f *repoFlags) openStore(ctx context.Context, a *app, create bool) (store.Store, location.Location, error) {
	if err := f.configure(a); err != nil {
		return nil, nil, err
	}
	if err := f.check(); err != nil {
		return nil, nil, err
	}
	at, err := location.Parse(f.url)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if errors.Is(err, store.ErrNotFound) && !create {
		return nil, at, hinted{fmt.Errorf("open repository %s: %w: %w", at, repository.ErrNoRepository, err), placeHint(err) + " " + a.Program + " repo init --repo URL makes a repository"}
	}
	opened, err := at.Open(ctx, location.Options{Create: create, Getenv: a.Getenv})
	if errors.Is(err, store.ErrNotFound) && !create {
		return nil, at, hinted{fmt.Errorf("open repository %s: %w: %w", at, repository.ErrNoRepository, err), placeHint(err) + " " + a.Program + " repo init --repo URL makes a repository"}
	}
	if err != nil {
		return nil, at, hinted{fmt.Errorf("open repository %s: %w", at, err), placeHint(err)}
	}
	return store.Retry(opened, store.RetryOptions{}), at, nil
}

func (a *app) trust() (repository.TrustFolder, error) {
	home, err := a.home()
	return repository.TrustFolder{Dir: filepath.Join(home, config.TrustFolder)}, err
}

// writer is the signing key of this host.
func (a *app) writer() (*repository.Writer, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	return repository.OpenWriter(filepath.Join(home, config.SignerFolder))
}

// openRepository opens a repository that is signed by the trusted root key. The first time, what is there is trusted, said
// and remembered.
func (a *app) openRepository(ctx context.Context, f *repoFlags) (*repository.Repository, error) {
	opened, at, err := f.openStore(ctx, a, false)
	if err != nil {
		return nil, err
	}
	trust, err := a.trust()
	if err != nil {
		return nil, err
	}
	repo, first, err := trust.Open(ctx, opened, at.Place(), repository.Fingerprint(f.trust))
	switch {
	case errors.Is(err, repository.ErrNoRepository):
		return nil, hinted{fmt.Errorf("open repository %s: %w", at, err), a.noRepositoryHint(ctx, f, opened, at, err)}
	case errors.Is(err, repository.ErrUntrusted) && f.trust == "":
		return nil, hinted{err, fmt.Sprintf("if you know that this is right, remove %s, or give --trust FINGERPRINT", trust.File(at.Place()))}
	case errors.Is(err, repository.ErrReplaced):
		return nil, hinted{err, fmt.Sprintf("if you know that this is right, remove %s", trust.File(at.Place()))}
	case err != nil:
		return nil, hinted{err, placeHint(err)}
	}
	if first && f.trust == "" {
		fmt.Fprintf(a.Stderr, "trusting root key %s of this repository from now on: it is the first that was seen there\n", repo.Root())
	}
	return repo, nil
}

// noRepositoryHint says what helps where there is no repository. To make a new one does not, where there are backups.
func (a *app) noRepositoryHint(ctx context.Context, f *repoFlags, s store.Store, at location.Location, err error) string {
	if hint := placeHint(err); hint != "" {
		return hint
	}
	orphaned, is := errors.AsType[*repository.Orphaned](repository.CheckVacant(ctx, s))
	if !is {
		return a.Program + " repo init --repo URL makes one"
	}
	return orphaned.Error() + ": " + a.orphanedHint(f, at)
}

// orphanedHint says how the document of a repository comes back.
func (a *app) orphanedHint(f *repoFlags, at location.Location) string {
	if trust, err := a.trust(); err == nil {
		if _, err := trust.Kept(at.Place(), repository.Fingerprint(f.trust)); err == nil {
			return a.Program + " repo repair puts back the copy that this machine has kept"
		}
	}
	return "put that file back from a copy of this place, or run " + a.Program + " repo repair on a machine that has worked with it; other objects than backups belong elsewhere"
}

// openForLook is openRepository for commands that only tell what there is. Of a store that is far away they read each signed
// object once.
func (a *app) openForLook(ctx context.Context, f *repoFlags) (*repository.Repository, error) {
	repo, err := a.openRepository(ctx, f)
	if err != nil || strings.HasPrefix(f.url, "file:") {
		return repo, err
	}
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	return repo.WithCache(repository.Cache{Dir: filepath.Join(home, "cache")}), nil
}

// oneCluster gives the cluster that was named, or the only one of the repository.
func (f *repoFlags) oneCluster(ctx context.Context, repo *repository.Repository) (string, error) {
	if f.cluster == "" {
		f.cluster = f.usual
	}
	if f.cluster != "" {
		if err := repository.CheckCluster(f.cluster); err != nil {
			return "", usageError{err}
		}
		return f.cluster, nil
	}
	clusters, err := repo.Clusters(ctx)
	switch {
	case err != nil:
		return "", err
	case len(clusters) == 0:
		return "", errors.New("the repository holds no snapshots yet")
	case len(clusters) > 1:
		return "", hinted{fmt.Errorf("the repository holds %d clusters", len(clusters)), "--cluster NAME, one of: " + strings.Join(clusters, " ")}
	}
	return clusters[0], nil
}

// identities reads the files with secret keys. An encrypted repository cannot be read without.
func (f *repoFlags) identities(repo *repository.Repository) ([]seal.Identity, error) {
	if repo.Document().Encryption == repository.None {
		return nil, nil
	}
	var all []seal.Identity
	for _, file := range f.identity {
		some, err := seal.ReadIdentities(file)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return nil, hinted{fmt.Errorf("the repository is encrypted: %w", errNoKey), "--identity FILE with the secret age key, or set HOLDFAST_IDENTITY"}
	}
	return all, nil
}

// errNoKey means that a secret key is needed and was not given.
var errNoKey = errors.New("a secret age key is needed to read it")

func (a *app) repo() *cobra.Command {
	command := &cobra.Command{
		Use:   "repo",
		Short: "Make and look at a repository of backups",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	for _, sub := range []*cobra.Command{a.repoInit(), a.repoInfo(), a.repoCheck(), a.repoRepair()} {
		sub.Args = usageArgs(sub.Args)
		command.AddCommand(sub)
	}
	return command
}

func (a *app) repoInit() *cobra.Command {
	var f repoFlags
	var recipients []string
	var encryption, rootKey, name string
	command := &cobra.Command{
		Use:   "init",
		Short: "Make a repository",
		Long: "Make a repository. Its data is encrypted to age recipients, whose secret keys are not needed to back up. Everything that says\n" +
			"something is signed; the root key, which lets hosts sign, is written to --root-key: move it off this machine.\n" +
			"This host may sign backups and verifications at once; key enroll lets in others, and says who may prune.",
		Example: "  " + a.Program + " repo init --repo file:///srv/backups --recipient age1… --root-key root.key",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			parsed, err := parseRecipients(recipients, encryption)
			if err != nil {
				return err
			}
			if rootKey == "" {
				return hinted{usagef("--root-key is missing"), "--root-key FILE: a new file for the key that lets hosts sign; keep it off this machine"}
			}
			return a.initRepository(c.Context(), &f, parsed, rootKey, name)
		},
	}
	flags := command.Flags()
	f.register(a, flags)
	flags.StringArrayVar(&recipients, "recipient", nil, "age recipient (age1… or age1pq1…) that can read the backups; may be repeated")
	flags.StringVar(&encryption, "encryption", "", "none: keep the backups readable for everybody who can read the store")
	flags.StringVar(&rootKey, "root-key", "", "new file for the root key")
	flags.StringVar(&name, "name", "", "what to call this host as a signer (default: its host name)")
	return command
}

func parseRecipients(texts []string, encryption string) ([]seal.Recipient, error) {
	switch {
	case encryption != "" && encryption != "none":
		return nil, usagef("--encryption must be none, or be left out, given %q", encryption)
	case encryption == "none" && len(texts) > 0:
		return nil, usagef("--encryption none and --recipient exclude each other")
	case encryption == "" && len(texts) == 0:
		return nil, hinted{usagef("nobody could read the backups: no --recipient is given"),
			"holdfast key generate FILE makes a key and prints its recipient; --encryption none stores them readable"}
	}
	var list []seal.Recipient
	for _, text := range texts {
		recipient, err := seal.ParseRecipient(text)
		if err != nil {
			return nil, usageError{err}
		}
		list = append(list, recipient)
	}
	if len(list) > 0 {
		if err := seal.CheckRecipients(list); err != nil {
			return nil, usageError{err}
		}
	}
	return list, nil
}

// initRepository writes the root key first: a repository whose root key is lost could let nobody in.
func (a *app) initRepository(ctx context.Context, f *repoFlags, recipients []seal.Recipient, rootKey, name string) error {
	opened, at, err := f.openStore(ctx, a, true)
	if err != nil {
		return err
	}
	trust, err := a.vacant(ctx, f, opened, at)
	if err != nil {
		return err
	}
	writer, err := a.writer()
	if err != nil {
		return err
	}
	if name, err = signerName(name); err != nil {
		return err
	}
	root, err := repository.NewKey()
	if err != nil {
		return err
	}
	text, err := root.MarshalPEM()
	if err != nil {
		return err
	}
	if err := writeKey(rootKey, text); err != nil {
		return fmt.Errorf("write root key: %w", err)
	}
	encryption := repository.Age
	if len(recipients) == 0 {
		encryption = repository.None
	}
	repo, err := repository.Init(ctx, opened, root, encryption, recipients)
	if err != nil {
		return a.notMade(ctx, opened, at, rootKey, err)
	}
	for _, role := range usualRoles {
		if err := repo.Enroll(ctx, root, writer.Public(), role, name); err != nil {
			return hinted{err, fmt.Sprintf("the repository is made, and its root key is in %s: %s key enroll --root-key %s", rootKey, a.Program, rootKey)}
		}
	}
	if err := trust.Begin(at.Place(), repo); err != nil {
		return err
	}
	fmt.Fprintf(a.Stderr, "the root key is in %s: move it off this machine; it is needed to let other hosts sign\n", rootKey)
	if f.output == "json" {
		return json.NewEncoder(a.Stdout).Encode(map[string]any{"repository": repo.Document().Repository, "root": repo.Root(), "location": at.String()})
	}
	fmt.Fprintf(a.Stdout, "repository %s is made\nroot key %s\n", repo.Document().Repository, repo.Root())
	return nil
}

// vacant refuses a place where a repository is, or was: what is remembered of it is how a disk that is not mounted shows.
func (a *app) vacant(ctx context.Context, f *repoFlags, s store.Store, at location.Location) (trust repository.TrustFolder, err error) {
	err = repository.CheckVacant(ctx, s)
	if errors.Is(err, store.ErrExists) {
		return trust, fmt.Errorf("make repository at %s: there is one already", at)
	}
	if _, is := errors.AsType[*repository.Orphaned](err); is {
		return trust, hinted{fmt.Errorf("make repository at %s: %w", at, err), a.orphanedHint(f, at)}
	}
	if err != nil {
		return trust, hinted{fmt.Errorf("make repository at %s: %w", at, err), placeHint(err)}
	}
	if trust, err = a.trust(); err != nil {
		return trust, err
	}
	known, found, err := trust.Get(at.Place())
	if err == nil && found {
		err = hinted{fmt.Errorf("make repository at %s: this machine knows repository %s there, with root key %s, and the place is empty", at, known.Repository, known.Root.Short()),
			fmt.Sprintf("is the disk mounted? If that repository is gone for good, remove %s", trust.File(at.Place()))}
	}
	return trust, err
}

// notMade says why there is no new repository. The root key goes only when it is plain that it has signed nothing there: an
// answer of the store may have been lost.
func (a *app) notMade(ctx context.Context, s store.Store, at location.Location, rootKey string, err error) error {
	if errors.Is(err, store.ErrExists) {
		return errors.Join(fmt.Errorf("make repository at %s: there is one already", at), os.Remove(rootKey))
	}
	if errors.Is(err, repository.ErrNothingMade) {
		return hinted{errors.Join(err, os.Remove(rootKey)), placeHint(err)}
	}
	if _, openErr := repository.Open(context.WithoutCancel(ctx), s, ""); errors.Is(openErr, repository.ErrNoRepository) {
		return errors.Join(err, os.Remove(rootKey))
	}
	return hinted{err, fmt.Sprintf("the repository may have been made all the same; %s is kept, as it may be its root key", rootKey)}
}

// writeKey writes a secret key to a new file.
func writeKey(file string, text []byte) error {
	err := durable.WriteNewFile(file, text, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%q exists, and a key is never overwritten", file)
	}
	return err
}

// placeHint says what to do about a place that is not there or does not let us in; "" when nothing is known.
func placeHint(err error) string {
	switch {
	case errors.Is(err, store.ErrDenied):
		return "check the credentials, and what they may do there"
	case strings.Contains(err.Error(), "NoSuchBucket"), strings.Contains(err.Error(), "ContainerNotFound"):
		return "make the bucket or container first, or check its name"
	case errors.Is(err, store.ErrNotFound) && !errors.Is(err, repository.ErrNoRepository):
		return "check the path; is the disk mounted?"
	}
	return ""
}

// signerName is what this host is called as a signer.
func signerName(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	return os.Hostname()
}

// repositoryInfo is what repo info tells; docs/contracts/repository.md has the JSON form.
type repositoryInfo struct {
	Location   string                 `json:"location"`
	Repository string                 `json:"repository"`
	Format     string                 `json:"format"`
	Created    string                 `json:"created"`
	Root       repository.Fingerprint `json:"root"`
	Encryption repository.Encryption  `json:"encryption"`
	Recipients []string               `json:"recipients"`
	Signers    []signerInfo           `json:"signers"`
	Clusters   []clusterInfo          `json:"clusters"`
}

type signerInfo struct {
	Name        string                 `json:"name"`
	Fingerprint repository.Fingerprint `json:"fingerprint"`
	Roles       []repository.Role      `json:"roles"`
	Enrolled    string                 `json:"enrolled"`
	Revoked     string                 `json:"revoked,omitempty"`
}

type clusterInfo struct {
	Name      string `json:"name"`
	Snapshots int    `json:"snapshots"`
	Oldest    string `json:"oldest,omitempty"`
	Newest    string `json:"newest,omitempty"`
}

func (a *app) repoInfo() *cobra.Command {
	var f repoFlags
	command := &cobra.Command{
		Use:   "info",
		Short: "Tell what a repository is, who may sign, and which clusters it holds",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			info, err := describe(c.Context(), repo, f.url)
			if err != nil {
				return err
			}
			if f.output == "json" {
				return json.NewEncoder(a.Stdout).Encode(info)
			}
			return info.write(a.Stdout)
		},
	}
	f.register(a, command.Flags())
	return command
}

func describe(ctx context.Context, repo *repository.Repository, url string) (repositoryInfo, error) {
	d := repo.Document()
	at, err := location.Parse(url)
	if err != nil {
		return repositoryInfo{}, err
	}
	info := repositoryInfo{
		Location: at.String(), Repository: d.Repository, Format: d.Format, Created: d.Created.Format(rfc3339),
		Root: repo.Root(), Encryption: d.Encryption, Clusters: []clusterInfo{},
	}
	if info.Recipients, err = repo.Recipients(ctx); err != nil {
		return info, err
	}
	info.Recipients = append([]string{}, info.Recipients...) // [] in JSON, not null
	signers, _, err := repo.Signers(ctx)
	if err != nil {
		return info, err
	}
	info.Signers = signersOf(signers)
	clusters, err := repo.Clusters(ctx)
	if err != nil {
		return info, err
	}
	for _, name := range clusters {
		points, _, err := repo.Points(ctx, name)
		if err != nil {
			return info, err
		}
		one := clusterInfo{Name: name, Snapshots: len(points)}
		if len(points) > 0 {
			one.Oldest, one.Newest = points[0].ID.Short(), points[len(points)-1].ID.Short()
		}
		info.Clusters = append(info.Clusters, one)
	}
	return info, nil
}

// signersOf puts the roles of a key together.
func signersOf(list []repository.Signer) []signerInfo {
	infos := []signerInfo{}
	for _, s := range list {
		f := s.Enrolment.Key.Fingerprint()
		if n := len(infos); n > 0 && infos[n-1].Fingerprint == f {
			infos[n-1].Roles = append(infos[n-1].Roles, s.Enrolment.Role)
			continue
		}
		one := signerInfo{Name: s.Enrolment.Name, Fingerprint: f, Roles: []repository.Role{s.Enrolment.Role}, Enrolled: s.Enrolment.Enrolled.Format(rfc3339)}
		if !s.Revoked.IsZero() {
			one.Revoked = s.Revoked.Format(rfc3339)
		}
		infos = append(infos, one)
	}
	return infos
}

const rfc3339 = "2006-01-02T15:04:05Z07:00"

func (i repositoryInfo) write(w io.Writer) error {
	fmt.Fprintf(w, "%s\n", i.Location)
	fmt.Fprintf(w, "  repository %s, %s, made %s\n", i.Repository, i.Format, i.Created)
	fmt.Fprintf(w, "  root key   %s\n", i.Root)
	fmt.Fprintf(w, "  encryption %s\n", i.Encryption)
	for _, recipient := range i.Recipients {
		fmt.Fprintf(w, "  recipient  %s\n", recipient)
	}
	for _, s := range i.Signers {
		until := ""
		if s.Revoked != "" {
			until = ", revoked " + s.Revoked
		}
		fmt.Fprintf(w, "  signer     %s %q, may sign %s, enrolled %s%s\n", s.Fingerprint.Short(), s.Name, joinRoles(s.Roles), s.Enrolled, until)
	}
	for _, c := range i.Clusters {
		span := ""
		if c.Snapshots > 0 {
			span = fmt.Sprintf(", from %s to %s", c.Oldest, c.Newest)
		}
		fmt.Fprintf(w, "  cluster    %s: %s%s\n", c.Name, plural(c.Snapshots, "snapshot"), span)
	}
	return nil
}
