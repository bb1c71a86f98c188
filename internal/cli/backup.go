package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-project/holdfast/internal/backup"
	"github.com/holdfast-project/holdfast/internal/capture"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// etcdFlags say which etcd a command reads, in etcdctl's words, or by the name of a unit or application.
type etcdFlags struct {
	endpoints []string
	files     unit.TLSFiles
	from      string
	flags     *pflag.FlagSet
}

func (f *etcdFlags) register(a *app, flags *pflag.FlagSet) {
	f.flags = flags
	var endpoints []string
	if given := a.Getenv("ETCDCTL_ENDPOINTS"); given != "" {
		endpoints = strings.Split(given, ",")
	}
	flags.StringSliceVar(&f.endpoints, "endpoints", endpoints, "client URLs of the members, with commas between (default $ETCDCTL_ENDPOINTS)")
	flags.StringVar(&f.files.CA, "cacert", a.Getenv("ETCDCTL_CACERT"), "certificate authority of etcd's servers (default $ETCDCTL_CACERT)")
	flags.StringVar(&f.files.Cert, "cert", a.Getenv("ETCDCTL_CERT"), "client certificate for etcd (default $ETCDCTL_CERT)")
	flags.StringVar(&f.files.Key, "key", a.Getenv("ETCDCTL_KEY"), "key of the client certificate (default $ETCDCTL_KEY)")
	flags.StringVar(&f.from, "unit", "", "an application of the inventory, or a unit of it, whose cluster it is, such as etcd or etcd/0; instead of --endpoints")
}

// dial prepares clients of the members, and gives the fingerprint of the authority that they are checked with.
func (f *etcdFlags) dial(a *app) (clients []*member.Client, authority string, err error) {
	endpoints, files := f.endpoints, f.files
	for _, flag := range []string{"endpoints", "cacert", "cert", "key"} {
		if f.from != "" && f.flags.Changed(flag) {
			return nil, "", usagef("--unit and --%s exclude each other", flag)
		}
	}
	if f.from != "" {
		if endpoints, files, err = a.endpointsOf(f.from); err != nil {
			return nil, "", err
		}
	}
	if len(endpoints) == 0 {
		return nil, "", hinted{usagef("no etcd is given"), "--endpoints https://10.0.0.1:2379 --cacert … --cert … --key …, or --unit etcd"}
	}
	switch {
	case (files.Cert == "") != (files.Key == ""):
		return nil, "", usagef("a client certificate needs both --cert and --key")
	case files.CA == "" && files.Cert != "":
		return nil, "", usagef("--cacert is missing: the authority of etcd's servers")
	}
	var config *tls.Config
	if !files.IsZero() {
		if config, err = pki.ClientTLS(files); err != nil {
			return nil, "", err
		}
		if authority, err = pki.AuthoritySum(files.CA); err != nil {
			return nil, "", err
		}
	}
	for _, endpoint := range endpoints {
		client, err := member.Dial(withScheme(strings.TrimSpace(endpoint), config != nil), config)
		if err != nil {
			return nil, "", errors.Join(err, closeAll(clients))
		}
		clients = append(clients, client)
	}
	return clients, authority, nil
}

// withScheme lets people write an endpoint without "https://", as etcdctl does.
func withScheme(endpoint string, secure bool) string {
	switch {
	case strings.Contains(endpoint, "://"):
		return endpoint
	case secure:
		return "https://" + endpoint
	}
	return "http://" + endpoint
}

func closeAll(clients []*member.Client) error {
	var failed []error
	for _, client := range clients {
		failed = append(failed, client.Close())
	}
	return errors.Join(failed...)
}

// endpointsOf gives the members of an application of the inventory, or of the one that a unit is of: that one unit does not
// answer is no reason for no backup.
func (a *app) endpointsOf(text string) (endpoints []string, files unit.TLSFiles, err error) {
	home, err := a.home()
	if err != nil {
		return nil, files, err
	}
	m, err := a.model()
	if err != nil {
		return nil, files, err
	}
	defer m.close()
	application, _, isUnit := strings.Cut(text, "/")
	if isUnit {
		name, err := unit.ParseName(text)
		if err != nil {
			return nil, files, usageError{err}
		}
		if _, err := m.inventory.Unit(name); err != nil {
			return nil, files, err
		}
	}
	names, err := m.units(application)
	if err != nil {
		return nil, files, err
	}
	for _, name := range names {
		record, err := m.inventory.Unit(name)
		if err != nil {
			return nil, files, err
		}
		endpoints = append(endpoints, record.ClientURLs...)
	}
	return endpoints, pki.Files(deploy.OperatorFolder(home), "etcd"), nil
}

func (a *app) backup() *cobra.Command {
	var f repoFlags
	var etcd etcdFlags
	var rate, compression string
	var newTimeline bool
	var retain time.Duration
	command := &cobra.Command{
		Use:   "backup",
		Short: "Back up a cluster into a repository",
		Long: "Back up a cluster into a repository: a snapshot of one healthy member, a follower where there is one, is checked, compressed,\n" +
			"encrypted and sent in one pass. Nothing is written to this machine's disk, and no secret age key is needed.\n" + volumesWarning,
		Example: "  " + a.Program + " backup --repo file:///srv/backups --cluster prod --unit etcd\n" +
			"  " + a.Program + " backup --cluster prod --endpoints https://10.0.0.1:2379,https://10.0.0.2:2379 --cacert ca.crt --cert c.crt --key c.key",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			pace, err := parsePace(rate)
			if err != nil {
				return err
			}
			if compression != "usual" && compression != "fast" {
				return usagef("--compression must be usual or fast, given %q", compression)
			}
			until, err := retainUntil(retain)
			if err != nil {
				return err
			}
			repo, err := a.openRepository(c.Context(), &f)
			if err != nil {
				return err
			}
			if f.cluster == "" {
				if f.cluster, err = f.oneCluster(c.Context(), repo); err != nil {
					return hinted{err, "--cluster NAME says what the cluster is called in the repository"}
				}
			}
			clients, authority, err := etcd.dial(a)
			if err != nil {
				return err
			}
			defer func() { _ = closeAll(clients) }()
			options := backup.Options{Cluster: f.cluster, Rate: pace, NewTimeline: newTimeline, CASHA256: authority}
			options.RetainUntil, options.Fast = until, compression == "fast"
			return a.runBackup(c.Context(), repo, clients, options, &f)
		},
	}
	flags := command.Flags()
	f.register(a, flags)
	f.registerCluster(flags)
	etcd.register(a, flags)
	flags.StringVar(&rate, "max-rate", "automatic", "pace in bytes of database per second, such as 30MB; 0 is unlimited; automatic is 60MB where etcd is on this machine")
	flags.StringVar(&compression, "compression", "usual", "usual, or fast: less processor time and a larger object")
	flags.BoolVar(&newTimeline, "new-timeline", false, "the cluster was restored or replaced since its last backup, and that is known")
	registerRetain(flags, &retain)
	return command
}

func registerRetain(flags *pflag.FlagSet, retain *time.Duration) {
	flags.DurationVar(retain, "retain-for", 0, "lock what is stored for so long, such as 720h, in stores with object lock: nobody can delete it before, whoever asks")
}

// retainUntil is when a lock ends; zero for none.
func retainUntil(retain time.Duration) (time.Time, error) {
	switch {
	case retain < 0:
		return time.Time{}, usagef("--retain-for must be a time to come, given %s", retain)
	case retain == 0:
		return time.Time{}, nil
	}
	return time.Now().Add(retain), nil
}

// enrollHint says how this host may sign.
func (a *app) enrollHint(err error, writer *repository.Writer, url string) error {
	if url == "" {
		url = "URL"
	}
	return hinted{err, fmt.Sprintf("on the machine that has the root key: %s key enroll --repo %s --root-key FILE %s", a.Program, url, writer.Public())}
}

// parsePace reads the pace of a snapshot.
func parsePace(text string) (capture.Rate, error) {
	pace, err := capture.ParseRate(text)
	if err != nil {
		return 0, usagef("--max-rate %w", err)
	}
	return pace, nil
}

// leanCollection is how much the heap may grow, in per cent, before it is collected: a backup runs beside an etcd that wants
// the memory.
const leanCollection = 40

func (a *app) runBackup(ctx context.Context, repo *repository.Repository, clients []*member.Client, options backup.Options, f *repoFlags) error {
	writer, err := a.writer()
	if err != nil {
		return err
	}
	if a.Getenv("GOGC") == "" {
		// Nearly all memory is buffers, which cost the collector nothing to look at: so it may look more often.
		debug.SetGCPercent(leanCollection)
	}
	show := a.transferProgress("back up "+options.Cluster, f)
	defer show.close()
	options.Observe = func(e backup.Event) {
		switch {
		case e.Skipped != nil:
			show.say("not read: %s: %s", e.Skipped.Client.Endpoint(), e.Skipped.Why)
		case e.PassedOver != nil:
			show.say("an earlier snapshot cannot be believed: %v", e.PassedOver)
		case e.Gone > 0:
			show.say("this host has signed %d manifests in this repository, and it holds none any more: see %s repo check", e.Gone, a.Program)
		case e.Chosen != nil:
			show.say("reading %s, %s at revision %s", e.Chosen.Client.Endpoint(), e.Chosen.Role, e.Chosen.Status.Revision)
		default:
			show.moved(e.Sent, e.Of)
		}
	}
	manifest, err := backup.Run(ctx, repo, writer, clients, options)
	show.close()
	switch {
	case errors.Is(err, repository.ErrNotEnrolled):
		return a.enrollHint(err, writer, "")
	case errors.Is(err, repository.ErrRevoked):
		return hinted{err, fmt.Sprintf("this host needs a new signing key: move %s away, then key enroll", writer.KeyFile())}
	case errors.Is(err, member.ErrNoMember):
		return hinted{err, "--endpoints with http:// or https:// as etcd has it, and for https --cacert, --cert and --key as for etcdctl"}
	case errors.Is(err, backup.ErrOtherCluster), errors.Is(err, backup.ErrWentBack):
		return hinted{err, "if the cluster was restored: --new-timeline; if it is another cluster: another --cluster name"}
	case errors.Is(err, store.ErrUnsupported) && !options.RetainUntil.IsZero():
		return hinted{err, "without --retain-for it is stored without a lock"}
	case err != nil:
		return err
	}
	if f.output == "json" {
		return json.NewEncoder(a.Stdout).Encode(manifest)
	}
	m := manifest
	fmt.Fprintf(a.Stdout, "snapshot %s of cluster %s is stored\n", m.ID.Short(), m.Cluster)
	fmt.Fprintf(a.Stdout, "  revision   %s, history from %s\n", m.Content.Revision, m.Point().First)
	fmt.Fprintf(a.Stdout, "  member     %s at %s, %s, etcd %s\n", m.Source.MemberName, m.Source.Endpoint, m.Source.Role, m.Source.EtcdVersion)
	fmt.Fprintf(a.Stdout, "  size       %s, stored as %s in %s\n", humanize.Bytes(uint64(m.Content.Size)), humanize.Bytes(uint64(m.Object.Size)),
		m.Completed.Sub(m.Started).Round(100*time.Millisecond))
	if !m.RetainUntil.IsZero() {
		fmt.Fprintf(a.Stdout, "  locked     until %s\n", m.RetainUntil.Format(rfc3339))
	}
	if m.HashKV.Missing != "" {
		fmt.Fprintf(a.Stdout, "  hash       none: %s\n", m.HashKV.Missing)
	}
	return nil
}
