package location

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/sftp"
)

// sshPort is the port that an address need not name.
const sshPort = "22"

// sftpFolder is sftp://USER@HOST:PORT/PATH. The user is part of the place: servers show each another tree.
type sftpFolder struct {
	user, host, port     string // host is in lower case, without brackets
	path                 string // absolute and clean
	identity, knownHosts string
}

func (f *sftpFolder) options() []option {
	return []option{{"identity-file", &f.identity, ofFile}, {"known-hosts", &f.knownHosts, ofFile}}
}

func parseSFTP(u *url.URL) (Location, error) {
	f := sftpFolder{user: u.User.Username(), host: strings.ToLower(u.Hostname()), port: sshPort}
	if err := readOptions(u, formSFTP, f.options()); err != nil {
		return nil, err
	}
	if given := u.Port(); given != "" {
		number, err := strconv.ParseUint(given, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port %s: want a number from 1 to 65535", given)
		}
		f.port = strconv.FormatUint(number, 10)
	}
	if f.path = u.Path; f.path != "" { // which path.Clean would make the working folder
		f.path = path.Clean(f.path)
	}
	return f, f.driver(false).Validate()
}

func (f sftpFolder) driver(create bool) sftp.Options {
	return sftp.Options{
		Host: net.JoinHostPort(f.host, f.port), User: f.user, Path: f.path, IdentityFile: f.identity, KnownHosts: f.knownHosts, Create: create,
	}
}

func (f sftpFolder) String() string {
	host := net.JoinHostPort(f.host, f.port)
	if f.port == sshPort {
		host = strings.TrimSuffix(host, ":"+sshPort)
	}
	return format(url.URL{Scheme: "sftp", User: url.User(f.user), Host: host}, strings.TrimPrefix(f.path, "/"), f.options())
}

func (f sftpFolder) Place() string {
	forget(f.options())
	return f.String()
}

func (f sftpFolder) Open(_ context.Context, opts Options) (store.Store, error) {
	return opened(sftp.New(f.driver(opts.Create)))
}
